"""Describes the model of a config before it is trained: parameters and operations, by half.

  python -m mtl_jax.describe --config=configs/NAME.py[:ARGUMENT] [--variants=A,B]

Any key of the config can be changed on the command line, as in `mtl_jax.train`. The data set is
read (vocabularies and classes decide sizes); nothing is trained or written.

For each variant: the parameters of the shared half, of each task's own, of all, and of separate
models, one a task, with the same encoder; and the operations (products and convolutions, a
multiply-add as two) of a forward pass for one example, on the shapes of the first training batch.

Exit codes: 0 described; 2 the command line or the config is wrong; 3 the data set is missing.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import rich.console
import rich.table

from mtl_jax import config as config_lib
from mtl_jax import errors, memory, sharing
from mtl_jax.build import flops, start
from mtl_jax.build.encoder import build_encoder
from mtl_jax.build.model import build_model
from mtl_jax.config import command_line
from mtl_jax.gradients import halves
from mtl_jax.model import MultiTaskModel


class Size(NamedTuple):
  """Numbers of a model.

  Attributes:
    shared: parameters of θ.
    tasks: parameters of φ, by task.
    encoder_operations: of encoding, for one example of every task.
    task_operations: of the task's own half, for one example.
  """

  shared: int
  tasks: dict[str, int]
  encoder_operations: float
  task_operations: dict[str, float]

  @property
  def parameters(self) -> int:
    """All of them."""
    return self.shared + sum(self.tasks.values())

  @property
  def operations(self) -> float:
    """Of a forward pass for one example of every task."""
    return self.encoder_operations + sum(self.task_operations.values())


def measure(model: MultiTaskModel, batch: Mapping[str, Any]) -> Size:
  """Counts a model's parameters and operations without computing any of them.

  Args:
    model: any `MultiTaskModel`.
    batch: either regime, with every task.
  """
  params = jax.eval_shape(model.init, jax.random.key(0), batch)
  model = start.with_first_state(model, batch)
  by_task = halves.examples(batch, model.task_names)
  least = min(jax.tree.leaves(example['inputs'])[0].shape[0] for example in by_task.values())
  batch = jax.tree.map(lambda leaf: leaf[:least], batch)  # as many examples of every task
  by_task = halves.examples(batch, model.task_names)
  encode = flops.count(lambda p: halves.encode_examples(model, p, batch)[0], params)
  features = jax.eval_shape(lambda p: halves.encode_examples(model, p, batch)[0], params)
  own = {}
  for name, example in by_task.items():
    work = flops.count(
      lambda p, f, name=name, example=example: model.task_outputs(name, p, f, example['inputs']),
      params['tasks'][name],
      features[name],
    )
    own[name] = work / least
  return Size(
    _numbers(params['shared']),
    {name: _numbers(params['tasks'][name]) for name in model.task_names},
    encode / least,
    own,
  )


def separate(model: MultiTaskModel, encoder: Any, batch: Mapping[str, Any]) -> Size:
  """The sizes of one model a task with the same encoder and heads, side by side."""
  examples = halves.examples(batch, model.task_names)
  alone = {
    task.name: measure(sharing.hard(encoder, [task]), {task.name: examples[task.name]})
    for task in model.tasks
  }
  return Size(
    0,
    {name: size.parameters for name, size in alone.items()},
    sum(size.encoder_operations for size in alone.values()),
    {name: size.task_operations[name] for name, size in alone.items()},
  )


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns its exit code."""
  memory.keep_freed()
  try:
    arguments = command_line.parse(sys.argv if argv is None else argv, __doc__, needs_workdir=False)
    if arguments is None:
      return 0
    runs = config_lib.resolve(arguments.config, arguments.variants)
    console = rich.console.Console(width=None if sys.stdout.isatty() else 100)
    for variant in dict.fromkeys(run['variant'] for run in runs):
      run = next(run for run in runs if run['variant'] == variant)
      with errors.as_config_errors():
        data = start.load_data(run)
        model, batch = build_model(run, data), data.example_batch()
        size = measure(model, batch)
        apart = separate(model, build_encoder(run, data), batch)
      console.print(_table(run, size, apart), markup=False)
  except tuple(command_line.EXIT_CODES) as e:
    print(f'error: {e}', file=sys.stderr)
    return command_line.exit_code(e)
  return 0


def _numbers(tree: Any) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _table(run: config_lib.Plain, size: Size, apart: Size) -> rich.table.Table:
  table = rich.table.Table(
    title=f'{run["variant"]}: {run["encoder"]["name"]}, sharing {run["sharing"]["name"]}'
  )
  for column in ('', 'parameters', 'operations an example'):
    table.add_column(column, justify='left' if not column else 'right')
  table.add_row('shared half', f'{size.shared:,}', _short(size.encoder_operations))
  for name, count in size.tasks.items():
    table.add_row(f'task {name}', f'{count:,}', _short(size.task_operations[name]))
  table.add_row('all', f'{size.parameters:,}', _short(size.operations), end_section=True)
  table.add_row('separate models', f'{apart.parameters:,}', _short(apart.operations))
  table.add_row(
    'all / separate',
    f'{size.parameters / max(apart.parameters, 1):.3f}',
    f'{size.operations / max(apart.operations, 1):.3f}',
  )
  return table


def _short(operations: float) -> str:
  for scale, unit in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if operations >= scale:
      return f'{operations / scale:.2f} {unit}'
  return f'{operations:.0f}'


if __name__ == '__main__':
  sys.exit(main())
