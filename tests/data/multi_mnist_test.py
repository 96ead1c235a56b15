"""Two digits become one image, from IDX files of a folder; damaged ones are named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mtl_jax import errors
from mtl_jax.data import prepare
from mtl_jax.data.builders import multi_mnist
from tests.data import served

# The files here are not the published ones.
pytestmark = pytest.mark.filterwarnings('ignore:.*not the published split')

SHARED = Path(__file__).parents[2].parent / 'shared' / 'data' / 'mnist'


def write_idx(path, array):
  array = np.asarray(array, np.uint8)
  header = bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
  path.write_bytes(header + array.tobytes())


def digits(count, seed=0):
  """Images that tell which they are: bright squares, in places that differ."""
  rng = np.random.default_rng(seed)
  images = np.zeros((count, 28, 28), np.uint8)
  labels = rng.integers(0, 10, count)
  for image, label in zip(images, labels, strict=True):
    row, column = 4 + 4 * (label // 3), 4 + 6 * (label % 3)
    image[row : row + 6, column : column + 6] = rng.integers(100, 256, (6, 6))
  return images, labels


def write(folder, train=60, test=12):
  folder.mkdir(parents=True, exist_ok=True)
  for part, count in (('train', train), ('t10k', test)):
    images, labels = digits(count, count)
    write_idx(folder / f'{part}-images-idx3-ubyte', images)
    write_idx(folder / f'{part}-labels-idx1-ubyte', labels)
  return folder


@pytest.fixture
def raw(tmp_path):
  return write(tmp_path / 'raw')


def test_overlay():
  """Against the canvas written out, and Pillow's nearest pixels."""
  (left, right), _ = digits(2)
  canvas = np.zeros((36, 36), np.uint8)
  for row in range(28):
    for column in range(28):
      canvas[row, column] = max(canvas[row, column], left[row, column])
      canvas[row + 6, column + 6] = max(canvas[row + 6, column + 6], right[row, column])
  expected = PIL.Image.fromarray(canvas).resize((28, 28), resample=PIL.Image.Resampling.NEAREST)
  got = multi_mnist.overlay(left[None], right[None])
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, np.asarray(expected)[None, ..., None])


def test_examples(raw, tmp_path):
  prepared = prepare.prepare('multi_mnist', tmp_path / 'data', raw)
  assert prepared.num_examples == {'train': 50, 'validation': 10, 'test': 12}
  seen = []
  for split, first in (('train', 0), ('validation', 50), ('test', 0)):
    images, labels = digits(12, 12) if split == 'test' else digits(60, 60)
    examples = list(prepare.load_source('multi_mnist', split, tmp_path / 'data'))
    own = range(first, first + len(examples))
    for example in examples:
      # Which two digits these are, found by trying all pairs of the split.
      left = [i for i in own if str(labels[i]) == example['left']]
      right = [i for i in own if str(labels[i]) == example['right']]
      a, b = (indices.ravel() for indices in np.meshgrid(left, right))
      pairs = multi_mnist.overlay(images[a], images[b])
      found = np.flatnonzero((pairs == example['image']).all(axis=(1, 2, 3)))
      assert len(found)
      seen.append((split, a[found[0]], b[found[0]]))
  lefts = [(split, a) for split, a, _ in seen]
  assert len(set(lefts)) == len(lefts) == 72  # every digit is a left one once
  assert len({(split, b) for split, _, b in seen}) > 36


def test_the_same_from_gzipped_files_and_from_the_network(raw, tmp_path, monkeypatch):
  prepare.prepare('multi_mnist', tmp_path / 'data', raw)
  for path in list(raw.iterdir()):
    path.with_name(f'{path.name}.gz').write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
  again = prepare.prepare('multi_mnist', tmp_path / 'data', raw)  # no complaint of other files
  assert not again.new
  with served.home(raw, multi_mnist, multi_mnist.MultiMnist, monkeypatch):
    assert prepare.prepare('multi_mnist', tmp_path / 'fetched', download=True).new
  assert not prepare.prepare('multi_mnist', tmp_path / 'fetched', raw).new
  both = [prepare.load_source('multi_mnist', 'test', tmp_path / d) for d in ('data', 'fetched')]
  assert sorted(map(str, both[0])) == sorted(map(str, both[1]))


IMAGES, LABELS = 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte'


@pytest.mark.parametrize(
  ('name', 'change', 'match'),
  [
    (IMAGES, lambda content: content[:-1], r'47039 numbers, and its header says 47040: get a fre'),
    (IMAGES, lambda content: content + b'0', r'47041 numbers, and its header says 47040'),
    (IMAGES, lambda content: content[:7], r'no IDX file of bytes with 3 axes: it begins with .00'),
    (IMAGES, lambda _: b'<html>', r'no IDX file of bytes with 3 axes: it begins with .3c 68 74'),
    (LABELS, lambda content: content[:-1], r'59 numbers, and its header says 60'),
    (LABELS, lambda content: content[:-1] + b'\n', r'labels-idx1-ubyte, label 59: 10 is no digit'),
    (LABELS, lambda _: bytes([0, 0, 8, 1, 0, 0, 0, 1, 3]), r'60 images and .* 1 labels: one of th'),
    (
      IMAGES,
      lambda _: bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 3, 3]),
      r'images-idx3-ubyte: images of 1 × 2, not 28 × 28',
    ),
    (LABELS, None, r'train-labels-idx1-ubyte: no such file'),
  ],
)
def test_bad_files_leave_nothing_and_can_be_mended(raw, tmp_path, name, change, match):
  original = (raw / name).read_bytes()
  if change is None:
    (raw / name).unlink()
  else:
    (raw / name).write_bytes(change(original))
  with pytest.raises(errors.DataError, match=match):
    prepare.prepare('multi_mnist', tmp_path / 'data', raw)
  assert not [p for p in (tmp_path / 'data').rglob('*') if p.is_file()]
  (raw / name).write_bytes(original)
  assert prepare.prepare('multi_mnist', tmp_path / 'data', raw).new


def test_too_few_digits_for_a_validation_split(tmp_path):
  raw = write(tmp_path / 'raw', train=5)
  with pytest.raises(errors.DataError, match=r"the split 'validation' is empty"):
    prepare.prepare('multi_mnist', tmp_path / 'data', raw)


def test_no_download_unless_asked_for(tmp_path):
  with pytest.raises(errors.DataError, match=r'data.prepare multi_mnist --download'):
    prepare.prepare('multi_mnist', tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason='the MNIST files are not beside the repository')
def test_the_real_files(tmp_path):
  builder = multi_mnist.MultiMnist(data_dir=tmp_path, manual_dir=SHARED)
  assert builder.manual_sources() == builder.PUBLISHED
  splits = builder.read({name: SHARED / name for name in builder.RAW})
  sizes = {split: len(examples) for split, examples in splits.items()}
  assert sizes == {'train': 50_000, 'validation': 10_000, 'test': 10_000}
  lefts = [example['left'] for _, example in splits['train']]
  assert lefts[:10] == list('5041921314')  # the order of MNIST
  rights = [example['right'] for _, example in splits['train']]
  shares = [rights.count(digit) / len(rights) for digit in '0123456789']
  np.testing.assert_allclose(shares, 0.1, atol=0.015)
  pixels = np.stack([example['image'] for _, example in splits['train']]) / 255
  mean, std = multi_mnist.MultiMnist.INPUT.mean[0], multi_mnist.MultiMnist.INPUT.std[0]
  assert (mean, std) == (0.1307, 0.3081)  # of single digits, as the paper has it
  assert pixels.mean() == pytest.approx(mean, abs=0.03)
  assert pixels.std() == pytest.approx(std, abs=0.03)
  # A partner says nothing about the digit: as often the same as chance has it.
  same = np.mean([a == b for a, b in zip(lefts, rights, strict=True)])
  assert same == pytest.approx(0.1, abs=0.005)
