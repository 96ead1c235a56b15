"""Rows in memory as files of a run: a run that is there keeps the rows that it was trained on."""

import pytest

from mtl_jax import errors
from mtl_jax.data.described import in_memory

ROWS = [{'text': f'w{i}', 'mood': 'ab'[i % 2]} for i in range(4)]


def test_other_rows_are_refused_once_a_run_is_there(tmp_path):
  found = in_memory.write(tmp_path, 'rows', ROWS)
  in_memory.write(tmp_path, 'rows', ROWS[:3])  # nothing is trained yet
  assert in_memory.write(tmp_path, 'rows', ROWS) == found
  run = tmp_path / 'default' / 'seed_0'
  run.mkdir(parents=True)
  (run / 'config.json').write_text('{}')
  assert in_memory.write(tmp_path, 'rows', ROWS) == found
  with pytest.raises(errors.WorkdirError, match=r"other rows \(table 'rows', train\)"):
    in_memory.write(tmp_path, 'rows', ROWS[:3])
  assert (tmp_path / 'data' / 'rows.train.jsonl').read_text().count('\n') == 4
