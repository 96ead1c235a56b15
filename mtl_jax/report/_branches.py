"""The trees that runs with `sharing.ltb` found."""

from collections.abc import Iterable

from mtl_jax import sharing
from mtl_jax.build import transfer
from mtl_jax.errors import ConfigError, WorkdirError
from mtl_jax.report._runs import Run

_PARENTS, _PARENT = 'shared/parents', 'tasks/{}/parent'


def lines(runs: Iterable[Run]) -> list[str]:
  """One line a run with a learned tree: the option that trains this tree from scratch.

  Raises:
    WorkdirError: a run's parameters cannot be read.
  """
  found = []
  for run in runs:
    try:
      params = transfer.read_run(run.path)
    except ConfigError as e:
      raise WorkdirError(f'{run.label}: {e}') from e
    own = {task: params.get(_PARENT.format(task)) for task in run.tasks}
    if any(logits is None for logits in own.values()):
      continue
    shared = {'parents': params[_PARENTS]} if _PARENTS in params else {}
    tasks = {task: {'parent': logits} for task, logits in own.items()}
    tree = sharing.branches({'shared': shared, 'tasks': tasks})
    texts = tuple(f'{task}={"/".join(map(str, path))}' for task, path in tree.items())
    found.append(f'{run.label}: --config.sharing.ltb.tree="{texts}"')
  return found
