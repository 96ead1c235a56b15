"""Folders of images, one folder a class: `folder/CLASS/x.png`. Read with Pillow, one at a time."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl_jax import errors
from mtl_jax.data.formats import _base, _sink

SUFFIXES = frozenset(
  ['.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp']
)
# Modes of Pillow whose bytes are channels; others become RGB.
_CHANNELS = {'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4}


class Images(_base.Format):
  """A folder of images of one size; one of another size, and what is no image, is a fault.

  The label is the first folder below; an image that lies in none has the label None. Names that
  begin with a dot are left out, and counted.
  """

  name = 'images'

  def read(self, notes: _base.Notes) -> Iterator[_base.Record | _base.Fault]:
    """Yields the fields `image` (uint8 `[H, W, C]`), `label` and `path`, sorted by path."""
    pillow = self._pillow()
    expected: tuple[int, ...] = ()
    found = False
    for path in self._walk(notes):
      found = True
      place = path.relative_to(self.path)
      if path.suffix.lower() not in SUFFIXES:
        suffixes = ', '.join(sorted(SUFFIXES))
        yield self.fault(str(place), f'no image by its name (known: {suffixes})', str(place))
        continue
      try:
        image = _pixels(pillow, path)
      # Pillow raises what its many decoders stumble on.
      except Exception as error:
        yield self.fault(str(place), f'no image that can be read ({error})', str(place))
        continue
      expected = expected or image.shape
      if image.shape != expected:
        wrong = f'size {_size(image.shape)}, expected {_size(expected)}, as the first image has'
        yield self.fault(str(place), wrong, str(place))
        continue
      label = place.parts[0] if len(place.parts) > 1 else None
      yield _base.Record(str(place), {'image': image, 'label': label, 'path': str(path)})
    if not found:
      raise self.error(
        'a folder without images; they lie in folders that are called as the classes'
      )

  def writer(self, out: _base.Out, new: Sequence[str]) -> '_base.Writer':
    """Returns a writer of CSV: `path` and the new columns."""
    return _Writer(out, new)

  def _pillow(self) -> Any:
    try:
      return importlib.import_module('PIL.Image')
    except ImportError as error:
      raise self.error('reading images needs Pillow: pip install pillow') from error

  def _walk(self, notes: _base.Notes) -> Iterator[Path]:
    if not self.path.is_dir():
      raise self.error('no folder')

    def stop(error: OSError) -> None:
      raise errors.DataError(f'{error.filename}: cannot be read ({error.strerror})') from error

    for folder, folders, names in os.walk(self.path, onerror=stop):
      hidden = [name for name in (*folders, *names) if name.startswith('.')]
      if hidden:
        notes['hidden files and folders'] += len(hidden)
      folders[:] = sorted(name for name in folders if name not in hidden)
      for name in sorted(name for name in names if name not in hidden):
        yield Path(folder) / name


def _pixels(pillow: Any, path: Path) -> np.ndarray:
  with pillow.open(path) as image:
    if image.mode.startswith(('I', 'F')):
      raise ValueError(f'mode {image.mode}, and not 8 bits a channel')
    mode = 'L' if image.mode == '1' else image.mode
    pixels = np.asarray(image.convert(mode if mode in _CHANNELS else 'RGB'), np.uint8)
  return pixels.reshape(*pixels.shape[:2], -1)


def _size(shape: Sequence[int]) -> str:
  return ' x '.join(map(str, shape))


class _Writer(_base.Writer):
  def __init__(self, out: _base.Out, new: Sequence[str]):
    self._names = _base.fresh(new, ['path'])
    self._sink = _sink.Sink(out)
    self._line(['path', *self._names.values()])

  def write(self, record: _base.Record, values: Mapping[str, Any]) -> None:
    """Writes the path of the image and the new values."""
    path = record.fields.get('path', record.place)
    self._line([path, *(values.get(name) for name in self._names)])

  def _line(self, values: Sequence[Any]) -> None:
    texts = map(_base.as_text, values)
    quoted = (
      '"{}"'.format(text.replace('"', '""')) if any(char in text for char in ',"\r\n') else text
      for text in texts
    )
    self._sink.write(','.join(quoted) + '\n')

  def close(self) -> None:
    """Puts the file in its place."""
    self._sink.close()

  def discard(self) -> None:
    """Leaves the file as it was."""
    self._sink.discard()
