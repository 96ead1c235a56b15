"""Multi-MNIST: two overlaid digits, one task each, as Kurin et al. (2022) make it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from mtl_jax import errors
from mtl_jax.data import specs
from mtl_jax.data.builders import _base, _raw

_HOME = 'https://storage.googleapis.com/cvdf-datasets/mnist'
# File -> size and SHA-256 of the gzipped one at its home, SHA-256 of what it unpacks to.
_RAW = {
  'train-images-idx3-ubyte': (
    9912422,
    '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
    'ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
  ),
  'train-labels-idx1-ubyte': (
    28881,
    '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
    '65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
  ),
  't10k-images-idx3-ubyte': (
    1648877,
    '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
    '0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
  ),
  't10k-labels-idx1-ubyte': (
    4542,
    'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
    'ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
  ),
}
_SIZE, _SHIFT, _CANVAS = 28, 6, 36
_DIGITS = tuple('0123456789')


class MultiMnist(_base.Builder):
  """50,000 / 10,000 / 10,000 images `[28, 28, 1]` of two digits, `left` and `right`.

  On a canvas of 36 × 36 the left digit is at the top left and the right one 6 pixels lower and
  further right; where they meet the brighter pixel counts. The canvas is then reduced to 28 × 28,
  each pixel being the nearest one. Every digit is a left one once, and its partner is drawn
  uniformly from the same split, always the same draws. Validation is the last sixth of MNIST's
  training set, as Kurin et al. have it.

  References: LeCun et al. 1998 (the digits); Sabour et al. 2017, "Dynamic Routing Between
  Capsules"; Sener and Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization"; Kurin et
  al. 2022, "In Defense of the Unitary Scalarization for Deep Multi-Task Learning" (these images,
  splits and normalization).
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012
  NEEDS = 'files'
  FILES = {  # noqa: RUF012
    f'{_HOME}/{name}.gz': checksums.UrlInfo(
      size=tfds.core.utils.Size(size), checksum=digest, filename=None
    )
    for name, (size, digest, _) in _RAW.items()
  }
  RAW = tuple(_RAW)
  PUBLISHED = {name: digest for name, (_, _, digest) in _RAW.items()}  # noqa: RUF012
  INPUT = specs.InputSpec(field='image', kind='array', mean=(0.1307,), std=(0.3081,))
  TASKS = {  # noqa: RUF012
    side: specs.TaskSpec('classification', side, ('accuracy',), labels=_DIGITS)
    for side in ('left', 'right')
  }

  def _info(self) -> tfds.core.DatasetInfo:
    digit = tfds.features.Text()
    return self.dataset_info_from_configs(
      description='Two overlaid handwritten digits.',
      homepage='https://github.com/isl-org/MultiObjectiveOptimization',
      license='CC BY-SA 3.0',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Tensor(shape=(_SIZE, _SIZE, 1), dtype=np.uint8),
          'left': digit,
          'right': digit,
        }
      ),
    )

  def find(self, dl_manager: Any) -> Any:
    """Returns the paths of the files, fetched from the network."""
    return self.fetch(dl_manager, {name: f'{_HOME}/{name}.gz' for name in self.RAW})

  def read(self, paths: Mapping[str, Path]) -> _base.Examples:
    """Returns the examples of each split; see the class."""
    images, labels = _read_digits(paths, 'train')
    last = len(images) - len(images) // 6
    digits = {
      'train': (images[:last], labels[:last]),
      'validation': (images[last:], labels[last:]),
      'test': _read_digits(paths, 't10k'),
    }
    splits = {}
    for number, (split, (images, labels)) in enumerate(digits.items()):
      partners = _draw(number, len(images))
      overlaid = overlay(images, images[partners])
      splits[split] = [
        (
          f'{index:05d}',
          {'image': image, 'left': _DIGITS[left], 'right': _DIGITS[right]},
        )
        for index, (image, left, right) in enumerate(
          zip(overlaid, labels, labels[partners], strict=True)
        )
      ]
    return splits


def _draw(number: int, count: int) -> np.ndarray:
  """The partners of a split, int64 `[count]`."""
  # Raw bits are the same in every NumPy. Their remainder is uniform to within 1 in 10^14.
  bits = np.random.Philox(np.random.SeedSequence([2018, number])).random_raw(count)
  return (bits % max(count, 1)).astype(np.int64)


def overlay(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """Returns uint8 `[N, 28, 28, 1]` of two digits each; see the class.

  Args:
    left: uint8 `[N, 28, 28]`.
    right: the same.
  """
  canvas = np.zeros((2, len(left), _CANVAS, _CANVAS), np.uint8)
  canvas[0, :, :_SIZE, :_SIZE] = left
  canvas[1, :, _SHIFT : _SHIFT + _SIZE, _SHIFT : _SHIFT + _SIZE] = right
  nearest = (np.arange(_SIZE) + 0.5) * _CANVAS // _SIZE  # the pixel that holds the new one's centre
  nearest = nearest.astype(int)
  return canvas.max(axis=0)[:, nearest[:, None], nearest][..., None]


def _read_digits(paths: Mapping[str, Path], part: str) -> tuple[np.ndarray, np.ndarray]:
  """The images `[N, 28, 28]` of a part of MNIST and their digits `[N]`."""
  names = f'{part}-images-idx3-ubyte', f'{part}-labels-idx1-ubyte'
  images, labels = _raw.read_idx(paths[names[0]], 3), _raw.read_idx(paths[names[1]], 1)
  if images.shape[1:] != (_SIZE, _SIZE):
    raise errors.DataError(
      f'{paths[names[0]]}: images of {images.shape[1]} × {images.shape[2]}, not {_SIZE} × {_SIZE}'
    )
  if len(images) != len(labels):
    raise errors.DataError(
      f'{paths[names[0]]} has {len(images)} images and {paths[names[1]]} {len(labels)} labels: '
      'one of them is cut off'
    )
  if len(labels) and labels.max() > 9:
    index = int(np.argmax(labels > 9))
    raise errors.DataError(f'{paths[names[1]]}, label {index}: {labels[index]} is no digit')
  return images, labels
