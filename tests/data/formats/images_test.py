"""Folders of images: labels from folders, pixels against Pillow's own, one size."""

import collections
import csv

import numpy as np
import pytest

from mtl_jax import errors
from mtl_jax.data import formats
from tests.data.formats import files

Image = pytest.importorskip('PIL.Image')


def draw(path, size=(3, 2), mode='RGB', seed=0):
  shape = (size[1], size[0]) if mode in ('L', '1') else (size[1], size[0], len(mode))
  pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(pixels) if mode != '1' else Image.fromarray(pixels).convert('1')
  image.save(path)
  return pixels


def test_a_folder_is_a_class(tmp_path):
  dog = draw(tmp_path / 'dogs' / 'b.png', seed=1)
  cat = draw(tmp_path / 'cats' / 'deep' / 'a.BMP', seed=2)
  none = draw(tmp_path / 'c.png', seed=3)
  (tmp_path / '.hidden').mkdir()
  (tmp_path / 'cats' / '.DS_Store').write_text('x')
  found = files.records(tmp_path)
  places = ['c.png', 'cats/deep/a.BMP', 'dogs/b.png']
  assert [record.place for record in found] == places
  assert [record.fields['label'] for record in found] == [None, 'cats', 'dogs']
  assert [record.fields['path'] for record in found] == [str(tmp_path / place) for place in places]
  for record, pixels in zip(found, (none, cat, dog), strict=True):
    np.testing.assert_array_equal(record.fields['image'], pixels)
    assert record.fields['image'].dtype == np.uint8
  notes = collections.Counter()
  list(formats.read(tmp_path, notes=notes))
  assert notes == {'hidden files and folders': 2}


@pytest.mark.parametrize(('mode', 'channels'), [('L', 1), ('1', 1), ('RGB', 3), ('RGBA', 4)])
def test_channels(tmp_path, mode, channels):
  draw(tmp_path / 'a' / 'x.png', mode=mode)
  [record] = files.records(tmp_path)
  assert record.fields['image'].shape == (2, 3, channels)


def test_palettes_become_colours(tmp_path):
  pixels = draw(tmp_path / 'a' / 'x.png')
  Image.fromarray(pixels).quantize(6).save(tmp_path / 'a' / 'x.png')
  [record] = files.records(tmp_path)
  assert record.fields['image'].shape == (2, 3, 3)


def test_faults(tmp_path):
  draw(tmp_path / 'a' / '0.png')
  draw(tmp_path / 'a' / '1.png', size=(4, 2))
  draw(tmp_path / 'a' / '2.png', mode='L')
  files.write(tmp_path, 'a/3.png', b'no image')
  files.write(tmp_path, 'a/4.txt', b'text')
  content = (tmp_path / 'a' / '0.png').read_bytes()
  files.write(tmp_path, 'a/5.png', content[:-30])
  Image.fromarray(np.zeros((2, 3), np.int32)).save(tmp_path / 'a' / '6.tif')
  draw(tmp_path / 'a' / '7.png')
  found = files.faults(tmp_path)
  assert [place for place, _ in found] == [
    f'a/{name}' for name in ('1.png', '2.png', '3.png', '4.txt', '5.png', '6.tif')
  ]
  reasons = [reason for _, reason in found]
  assert reasons[0] == 'size 2 x 4 x 3, expected 2 x 3 x 3, as the first image has'
  assert reasons[1] == 'size 2 x 3 x 1, expected 2 x 3 x 3, as the first image has'
  assert reasons[2].startswith('no image that can be read')
  assert reasons[3].startswith('no image by its name')
  assert reasons[4].startswith('no image that can be read')
  assert 'mode I' in reasons[5]
  assert len(files.read(tmp_path)) == 8


def test_predictions_are_a_table(tmp_path):
  draw(tmp_path / 'images' / 'a,b' / '0.png')
  draw(tmp_path / 'images' / 'c' / '1.png')
  files.rewrite(tmp_path / 'images', {'label': 'x', 'path': 0.5}, tmp_path / 'y.csv')
  with (tmp_path / 'y.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert rows == [
    {'path': str(tmp_path / 'images' / place), 'label': 'x', 'path_predicted': '0.5'}
    for place in ('a,b/0.png', 'c/1.png')
  ]


def test_folders_that_are_none(tmp_path):
  with pytest.raises(errors.DataError, match='a folder without images'):
    files.read(tmp_path)
  path = files.write(tmp_path, 'x', 'text')
  with pytest.raises(errors.DataError, match='no folder'):
    files.read(path, format='images')
