"""What the user sees while runs train: a live display on a terminal, plain lines elsewhere."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import rich.console
import rich.progress
import rich.table
import rich.text

_PLAIN_INTERVAL = 10.0  # seconds between lines of progress


class Console:
  """Shows a sequence of runs; used as a context manager.

  With `quiet`, as on every process but one, it shows nothing.
  """

  def __init__(self, num_runs: int, *, quiet: bool = False, console: Any = None):
    self._console = rich.console.Console(quiet=quiet) if console is None else console
    self._live = self._console.is_terminal and not quiet
    self._num_runs = num_runs
    self._label, self._total, self._last = '', 0, 0.0
    self._rate = 0.0
    self._progress = _Progress(
      rich.progress.TextColumn('{task.description}'),  # one of text does not wrap
      rich.progress.BarColumn(bar_width=None, table_column=rich.table.Column(max_width=20)),
      rich.progress.TextColumn('{task.completed}/{task.total}'),
      rich.progress.TextColumn('{task.fields[rate]}'),
      console=self._console,
      disable=not self._live,
      transient=True,
    )
    visible = num_runs > 1
    self._runs = self._progress.add_task('runs', total=num_runs, visible=visible, rate='')
    self._run = self._progress.add_task('', total=None, visible=False, rate='')

  def __enter__(self) -> 'Console':
    self._progress.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._progress.stop()

  def message(self, text: str) -> None:
    """Prints a line that stays."""
    self._console.print(text, markup=False, highlight=False, soft_wrap=True)

  def start(self, label: str, step: int, total: int) -> None:
    """Begins to show a run that stands at `step` of `total`."""
    self._label, self._total, self._last, self._rate = label, total, 0.0, 0.0
    self._progress.losses = self._progress.best = ''
    self._progress.reset(
      self._run, total=total, completed=step, description=label, visible=True, rate='compiling'
    )

  def step(self, step: int) -> None:
    """Counts a step; it is shown when the display is next drawn, some times a second."""
    if self._live:
      rate = f'{self._rate:.1f}/s  {self._left(step)} left' if self._rate else 'compiling'
      self._progress.update(self._run, completed=step, rate=rate)

  def progress(self, step: int, rate: float, losses: Mapping[str, float | None]) -> None:
    """Shows the state of training at a step: steps per second, and each task's loss.

    The rate is 0 where every step since the last time was compiled.
    """
    shown = '  '.join(f'{name} {_number(loss)}' for name, loss in losses.items())
    self._rate = rate
    self._progress.losses = f'loss: {shown}'
    self.step(step)
    if not self._live and time.monotonic() - self._last > _PLAIN_INTERVAL:
      self._last = time.monotonic()
      speed = f'{rate:.1f} steps/s  {self._left(step)} left  ' if rate else ''
      self.message(f'{self._label}: step {step}/{self._total}  {speed}loss: {shown}')

  def evaluated(self, step: int, metric: str, value: float, best: float, improved: bool) -> None:
    """Shows the selection metric after an evaluation."""
    self._progress.best = f'best {metric} {_number(best)}'
    if not self._live:
      note = ' (best)' if improved else f' (best {_number(best)})'
      self.message(f'{self._label}: step {step}  validation {metric} {_number(value)}{note}')

  def finish(self, text: str) -> None:
    """Ends the run shown with a line that stays."""
    self._progress.update(self._run, visible=False)
    self._progress.losses = self._progress.best = ''
    self._progress.advance(self._runs)
    self.message(f'{self._label}: {text}' if self._label else text)
    self._label = ''

  def _left(self, step: int) -> str:
    return _duration((self._total - step) / self._rate)


class _Progress(rich.progress.Progress):
  """Progress bars, and below them lines for what is too long to stand beside them."""

  losses = best = ''

  def get_renderables(self) -> Iterator[rich.console.RenderableType]:
    """Yields the bars, then the lines."""
    yield self.make_tasks_table(self.tasks)
    for line in (self.losses, self.best):
      if line:
        yield rich.text.Text(f'  {line}')


@contextlib.contextmanager
def log_to(console: Console) -> Iterator[None]:
  """Shows what the library logs, such as how the step computes its gradients."""

  class Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
      console.message(record.getMessage())

  log, handler = logging.getLogger('mtl_jax'), Handler()
  before = log.level, log.propagate
  log.addHandler(handler)
  log.setLevel(logging.INFO)
  log.propagate = False  # absl shows what reaches the root
  try:
    yield
  finally:
    log.removeHandler(handler)
    log.level, log.propagate = before


def for_process(num_runs: int, process_index: int) -> Console:
  """The console of one process of many: only the first one speaks."""
  return Console(num_runs, quiet=process_index != 0)


def _number(value: float | None) -> str:
  return (
    '-'
    if value is None or math.isnan(value)
    else f'{value:.4f}'
    if abs(value) < 10
    else f'{value:.4g}'
  )


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes}:{seconds:02d}'
