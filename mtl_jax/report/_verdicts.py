"""What the gradients of runs' tasks say, in words: `monitor.verdict` of what was logged."""

from collections.abc import Iterable, Sequence

import numpy as np

from mtl_jax import monitor
from mtl_jax.report._runs import Entry, Experiment, Run


def lines(experiments: Iterable[Experiment], whole: bool) -> list[str]:
  """A line for each entry whose runs logged cosines, or with `whole` all that can be said of it."""
  found = []
  for experiment in experiments:
    for entry in experiment.entries:
      said = None if entry.single or len(entry.runs) < 2 else of_entry(entry)
      if said is None:
        continue
      if whole:
        found += [f'{entry.label}:', *(f'  {line}' for line in str(said).splitlines())]
      else:
        found.append(f'{entry.label}: {said.advice}')
  return found


def of_entry(entry: Entry) -> monitor.Verdict | None:
  """The verdict on the logged means of all seeds of an entry; None where nothing was logged.

  Where the seeds ended at different steps, those up to the first end count.
  """
  tasks = list(entry.runs)
  logged = [_logged(run) for run in entry.runs[tasks[0]]]
  steps = min(map(len, logged), default=0)
  records = [record for run in zip(*(run[:steps] for run in logged), strict=True) for record in run]
  if not records:
    return None
  norm = [[record.get('gradient_norm', {}).get(task) for task in tasks] for record in records]
  cosine = [record['cosine'] for record in records]
  improved = [record.get('improved') for record in records]
  return monitor.verdict_of(_array(norm), _array(cosine), _array(improved), tasks)


def _logged(run: Run) -> list[dict]:
  return [r for r in run.records.get('train', ()) if r.get('cosine') is not None]


def _array(values: Sequence) -> np.ndarray:
  return np.array(values, float)  # None becomes NaN
