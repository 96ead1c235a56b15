"""Counts over the examples of a data set, raw and encoded. Shows nothing."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtl_jax.data import _data, pipeline, sources, specs
from mtl_jax.data.inspect import _hints

QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Of the lengths."""


@dataclasses.dataclass(frozen=True)
class TaskLook:
  """What is known of a task.

  Attributes:
    kind: the name of its kind.
    metrics: the main one first.
    labelled: split -> examples with a label.
    total: split -> examples, with or without one.
    classes: class -> split -> how often it is a label; the most frequent in training first.
    numbers: split -> (minimum, mean, standard deviation, maximum), of labels that are numbers.
    words: split -> words with a label, of tasks that label words.
    unlearned: classes that no training example has, or too few: what is learned has no part in
      them.
  """

  kind: str
  metrics: tuple[str, ...]
  labelled: dict[str, int]
  total: dict[str, int]
  classes: dict[str, dict[str, int]]
  numbers: dict[str, tuple[float, float, float, float]]
  words: dict[str, int]
  unlearned: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Look:
  """What is known of a data set.

  Attributes:
    name: of the data set.
    input: what a model reads.
    examples: split -> how many.
    tasks: task -> what is known of it.
    lengths: split -> the `QUANTILES` of the tokens of an example; empty for arrays.
    buckets: the lengths that batches are padded to.
    cut: split -> examples that are cut at `max_length`.
    windowed: split -> examples that became several windows; the lengths are those of windows.
    stride: what these share; 0: there are none.
    max_length: the bound; 0: none.
    vocabulary: the number of token ids; 0 for arrays.
    unknown: split -> share of tokens that the vocabulary lacks.
    notes: what was counted while reading: rows left out, inputs that stand in two splits.
    meetings: pair of tasks -> share of steps in which both have labels.
    hints: what may be a mistake, in words.
    shown: training examples from all over the split: field -> text, as the model sees them.
  """

  name: str
  input: specs.InputSpec
  examples: dict[str, int]
  tasks: dict[str, TaskLook]
  lengths: dict[str, tuple[int, ...]]
  buckets: tuple[int, ...]
  cut: dict[str, int]
  windowed: dict[str, int]
  stride: int
  max_length: int
  vocabulary: int
  unknown: dict[str, float]
  notes: dict[str, int]
  meetings: dict[tuple[str, str], float]
  hints: tuple[str, ...]
  shown: list[dict[str, str]]


def look(source: sources.Source, data: pipeline.Data, max_length: int = 0, show: int = 10) -> Look:
  """Looks at a data set.

  Args:
    source: where its examples come from.
    data: the same, encoded for training.
    max_length: that of the config.
    show: how many examples to show.
  """
  examples = source.read()
  lengths, unknown = {}, {}
  for split in data.num_examples:
    parts = [part for name, part in data.splits.items() if name.split('/')[0] == split]
    if data.vocabularies.tokenizer is not None:
      sizes = np.concatenate([part.lengths for part in parts])
      lengths[split] = tuple(int(np.quantile(sizes, q, method='higher')) for q in QUANTILES)
      ids = np.concatenate([part.tokens.values for part in parts])  # type: ignore[attr-defined]
      unknown[split] = float(np.mean(ids == data.vocabularies.tokenizer.unknown_id))
  tasks = {task: _of_task(source, data, task, examples) for task in data.specs}
  hints = _hints.of_source(source)
  for task, found in tasks.items():
    hints += _hints.of_classes(task, found.classes, source)
  return Look(
    data.name,
    source.input,
    dict(data.num_examples),
    tasks,
    lengths,
    data.bucket_lengths,
    dict(data.truncated),
    dict(data.windowed),
    data.stride,
    max_length,
    data.vocab_size,
    unknown,
    dict(data.notes),
    data.meetings(),
    tuple(hints),
    _shown(source, data, examples['train'], show),
  )


def _of_task(
  source: sources.Source, data: pipeline.Data, task: str, examples: sources.Examples
) -> TaskLook:
  spec = data.specs[task]
  rules = spec.rules
  labelled, total, numbers = {}, {}, {}
  counts: dict[str, collections.Counter[str]] = {}
  for split in data.num_examples:
    own = [e for e in examples[split] if not source.owner or e[source.owner] == task]
    fields = [e[spec.field] for e in own if rules.has_label(e[spec.field])]
    labelled[split], total[split] = len(fields), len(own)
    counts[split] = collections.Counter()
    for field in fields:
      counts[split].update(str(name) for name in rules.classes_in(field) if name != '')
    if not rules.discrete and fields:
      values = np.asarray(fields, np.float64)
      numbers[split] = (
        float(values.min()),
        float(values.mean()),
        float(values.std()),
        float(values.max()),
      )
  names = sorted({n for c in counts.values() for n in c}, key=lambda n: (-counts['train'][n], n))
  learned = set(data.label_names[task])
  return TaskLook(
    rules.name,
    spec.metrics,
    labelled,
    total,
    {name: {split: counts[split][name] for split in counts} for name in names},
    numbers,
    {split: c.total() for split, c in counts.items()} if rules.per_token else {},
    tuple(name for name in names if name not in learned) if rules.discrete else (),
  )


def _shown(
  source: sources.Source, data: pipeline.Data, train: Sequence[Mapping[str, Any]], count: int
) -> list[dict[str, str]]:
  """Some examples: the input split as the model sees it, and the label of each task.

  They are equally far from each other: the first ones may all be of one file.
  """
  tokenizer = data.vocabularies.tokenizer
  rows = _rows(source, data, train)
  chosen = {round(place) for place in np.linspace(0, len(rows) - 1, min(count, len(rows)))}
  made = []
  for example, task, row in (rows[place] for place in sorted(chosen)):
    owner = example[source.owner] if source.owner else ''
    part = data.splits[f'train/{task}' if task else 'train']
    if part.windows is not None:
      row = int(part.windows.firsts[row])
    if tokenizer is None:
      value = np.asarray(example[source.input.field])
      text = f'{value.dtype} {list(value.shape)}: {np.array2string(value.ravel()[:8], precision=3)}'
    else:
      bounds = part.tokens.offsets  # type: ignore[attr-defined]
      ids = part.tokens.values[bounds[row] : bounds[row + 1]].tolist()  # type: ignore[attr-defined]
      text = ' | '.join(tokenizer.backend.id_to_token(i) or '' for i in ids)
    shown = {'input': text}
    for task, spec in data.specs.items():
      if not owner or owner == task:
        label = example[spec.field]
        shown[task] = _label(label) if spec.rules.has_label(label) else '–'
    made.append(shown)
  return made


def _rows(
  source: sources.Source, data: pipeline.Data, train: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], str, int]]:
  """The examples that are trained on, each with a part of the split and its place in that.

  The part is that of the first task that has the example, or '' where tasks share batches.
  """
  places: collections.Counter[str] = collections.Counter()
  found = []
  for example in train:
    if source.owner:
      tasks = [example[source.owner]]
    elif data.own_inputs:
      tasks = [t for t, spec in data.specs.items() if spec.rules.has_label(example[spec.field])]
    else:
      tasks = ['']
    part = data.splits.get(f'train/{tasks[0]}' if tasks[0] else 'train') if tasks else None
    if part is not None and places[tasks[0]] < _data.examples_in(part):
      found.append((example, tasks[0], places[tasks[0]]))
    places.update(tasks)
  return found


def _label(label: Any) -> str:
  if isinstance(label, list | tuple):
    return ' '.join(map(str, label))
  if isinstance(label, float) and math.isfinite(label):
    return f'{label:.6g}'
  return str(label)
