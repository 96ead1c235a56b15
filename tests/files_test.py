"""Files are written whole, with the permissions that the umask leaves, and through no link."""

import os
import stat

import pytest

from mtl_jax import files


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.json'
  files.write(path, '1')

  def full(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space left'):
    files.write(path, '2')
  with pytest.raises(UnicodeEncodeError):
    files.write(path, '\udcff')
  assert path.read_text() == '1'
  assert os.listdir(tmp_path) == ['a.json']


def test_the_umask_decides_who_may_read(tmp_path):
  for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o002, 0o664)):
    before = os.umask(mask)
    try:
      files.write(tmp_path / 'a', 'é')
      os.close(files.open_here(tmp_path / str(mask), os.O_RDWR))
    finally:
      os.umask(before)
    for path in (tmp_path / 'a', tmp_path / str(mask)):
      assert stat.S_IMODE(path.stat().st_mode) == mode
  assert (tmp_path / 'a').read_text(encoding='utf-8') == 'é'


def test_links_are_not_followed(tmp_path):
  target = tmp_path / 'target'
  target.write_text('precious')
  link = tmp_path / 'link'
  link.symlink_to(target)
  with pytest.raises(OSError, match='symbolic link'):
    files.open_here(link, os.O_RDWR)
  files.write(link, b'new')
  assert (link.is_symlink(), link.read_text()) == (False, 'new')
  assert target.read_text() == 'precious'


def test_a_file_that_is_there_is_not_emptied(tmp_path):
  path = tmp_path / 'a'
  path.write_text('kept')
  os.close(files.open_here(path, os.O_RDWR))
  assert path.read_text() == 'kept'
