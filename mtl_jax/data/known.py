"""What a model is made for: its tasks, the vocabularies, the lengths of its inputs."""

from collections.abc import Mapping

from mtl_jax.data import specs as specs_lib
from mtl_jax.data import vocabularies as vocabularies_lib


class Known:
  """Tasks and vocabularies of a data set, with or without examples.

  Attributes:
    specs: task -> what its labels are, in the order asked for.
    vocabularies: tokenizers and class names.
    bucket_lengths: the widths that batches are padded to, ascending; (1,) for arrays.
  """

  specs: dict[str, specs_lib.TaskSpec]
  vocabularies: vocabularies_lib.Vocabularies
  bucket_lengths: tuple[int, ...]

  def __init__(
    self,
    specs: Mapping[str, specs_lib.TaskSpec],
    vocabularies: vocabularies_lib.Vocabularies,
    bucket_lengths: tuple[int, ...],
  ):
    self.specs = dict(specs)
    self.vocabularies = vocabularies
    self.bucket_lengths = bucket_lengths

  @property
  def label_names(self) -> dict[str, tuple[str, ...]]:
    """Task -> the names of its classes, none where labels are numbers."""
    return self.vocabularies.labels

  @property
  def num_classes(self) -> dict[str, int]:
    """Task -> the width of its outputs."""
    return {task: self.specs[task].rules.width(names) for task, names in self.label_names.items()}

  @property
  def vocab_size(self) -> int:
    """The number of token ids; 0 for arrays."""
    return 0 if self.vocabularies.tokenizer is None else self.vocabularies.tokenizer.size

  @property
  def pieces_vocab_size(self) -> int:
    """The number of piece ids; 0 without pieces."""
    return 0 if self.vocabularies.pieces is None else self.vocabularies.pieces.size
