"""A folder in place of a data set's public home, with the checksums of its files."""

import contextlib
import functools
import hashlib
import http.server
import threading

from tensorflow_datasets import core as tfds
from tensorflow_datasets.core.download import checksums


class _Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):
    pass


@contextlib.contextmanager
def home(folder, module, builder, monkeypatch):
  """Serves the files of `folder`, as they are now, in place of `module._HOME`."""
  monkeypatch.setenv('NO_PROXY', '*')
  handler = functools.partial(_Quiet, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    monkeypatch.setattr(module, '_HOME', address)
    files = {
      f'{address}/{path.relative_to(folder)}': checksums.UrlInfo(
        size=tfds.utils.Size(path.stat().st_size),
        checksum=hashlib.sha256(path.read_bytes()).hexdigest(),
        filename=None,
      )
      for path in folder.rglob('*')
      if path.is_file()
    }
    monkeypatch.setattr(builder, 'FILES', files)
    yield
    server.shutdown()
