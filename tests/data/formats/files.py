"""Small files on disk, read whole and written back, for the tests of every format."""

import collections
import pathlib

from mtl_jax.data import formats

SHARED = pathlib.Path(__file__).parents[3].parent / 'shared' / 'data'


def write(folder, name, content):
  """Writes text (UTF-8, line ends as they are) or bytes; returns the path."""
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return path


def read(path, notes=None, **reading):
  """Returns what a file holds, in order."""
  return list(formats.read(path, formats.Reading(**reading), notes))


def records(path, **reading):
  """Returns the records of a file that has no fault."""
  found = read(path, **reading)
  assert all(isinstance(item, formats.Record) for item in found), found
  return found


def fields(path, **reading):
  return [record.fields for record in records(path, **reading)]


def faults(path, **reading):
  """Returns `(place, reason)` of the faults of a file."""
  return [
    (item.place, item.reason)
    for item in read(path, **reading)
    if isinstance(item, formats.Fault) and item.path == str(path)
  ]


def counted(path, **reading):
  """Returns the notes of reading a file."""
  notes = collections.Counter()
  read(path, notes, **reading)
  return dict(notes)


def rewrite(path, values, out=None, new=None, **reading):
  """Writes a file's records with new values (a function of the record); returns the new bytes."""
  settings = formats.Reading(**reading)
  out = out or path.with_name(f'out_{path.name}')
  values = values if callable(values) else lambda _, given=values: given
  items = [item for item in formats.read(path, settings) if isinstance(item, formats.Record)]
  new = new if new is not None else list(values(items[0]))
  with formats.writer(out, path, settings, new) as writer:
    for item in items:
      writer.write(item, values(item))
  return pathlib.Path(out).read_bytes()
