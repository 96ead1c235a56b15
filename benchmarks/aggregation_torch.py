"""Balancing alone in PyTorch, beside `benchmarks.aggregation`: TorchJD's aggregators, or `J @ J.T`.

python -m benchmarks.aggregation_torch [--tasks 2 4 8 16] [--parameters 11174592]

Needs PyTorch, which the project does not: an environment of its own will do, with or without
TorchJD. On a GPU where PyTorch finds one; float32 without TF32, which is PyTorch's default, too.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch

METHODS = ('PCGrad', 'MGDA', 'UPGrad', 'CAGrad', 'IMTLG', 'AlignedMTL', 'ConFIG')
OPTIONS = {'CAGrad': {'c': 0.5}}


def aggregators() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
  """What takes J `[T, D]` to a direction, by name."""
  found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    'J @ J.T': lambda rows: rows @ rows.T,
    'J @ J.T, w @ J': lambda rows: (rows @ rows.T)[0] @ rows,
  }
  if importlib.util.find_spec('torchjd') is not None:
    from torchjd import aggregation

    for name in METHODS:
      try:
        found[f'TorchJD {name}'] = getattr(aggregation, name)(**OPTIONS.get(name, {}))
      except ImportError as error:  # some of them need a solver
        print(f'TorchJD {name}: {error}')
  return found


def seconds(function, rows: torch.Tensor, repeats: int) -> float:
  def once() -> float:
    start = time.perf_counter()
    function(rows)
    if rows.is_cuda:
      torch.cuda.synchronize()
    return time.perf_counter() - start

  once()
  return statistics.median(once() for _ in range(repeats))


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.split('\n', maxsplit=1)[0], prog='python -m benchmarks.aggregation_torch'
  )
  parser.add_argument('--tasks', type=int, nargs='+', default=[2, 4, 8, 16, 40])
  parser.add_argument('--parameters', type=int, default=11_174_592, help='a ResNet-18')
  parser.add_argument('--repeats', type=int, default=7)
  arguments = parser.parse_args()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.backends.cuda.matmul.allow_tf32 = False
  kind = torch.cuda.get_device_name() if device == 'cuda' else f'{os.cpu_count()} cores'
  print(f'{kind}; Python {platform.python_version()}, PyTorch {torch.__version__}', end='\n\n')
  functions = aggregators()
  print(f'{arguments.parameters / 1e6:.1f} M parameters, float32. Milliseconds.\n')
  print('| method | ' + ' | '.join(f'T = {tasks}' for tasks in arguments.tasks) + ' |')
  print('| --- |' + ' --- |' * len(arguments.tasks))
  made = {t: torch.randn(t, arguments.parameters, device=device) for t in arguments.tasks}
  for name, function in functions.items():
    cells = []
    for tasks, rows in made.items():
      taken = seconds(function, rows, arguments.repeats)
      cells.append(f'{1e3 * taken:.3g}')
      record('aggregation_torch', device=kind, tasks=tasks, method=name, seconds=taken)
    print(f'| {name} | ' + ' | '.join(cells) + ' |', flush=True)


def record(table: str, **row) -> None:
  """As `benchmarks.machine.record`, which needs JAX."""
  path = os.environ.get('BENCHMARK_RECORDS')
  if path:
    with open(path, 'a', encoding='utf-8') as lines:
      lines.write(json.dumps({'table': table, **row}) + '\n')


if __name__ == '__main__':
  main()
