"""What the user sees while runs train: a live display on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any

import rich.console
import rich.progress

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
    self._progress = rich.progress.Progress(
      rich.progress.TextColumn('{task.description}'),
      rich.progress.BarColumn(bar_width=20),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn('{task.fields[rate]}'),
      rich.progress.TimeRemainingColumn(compact=True),
      rich.progress.TextColumn('{task.fields[losses]}'),
      rich.progress.TextColumn('{task.fields[best]}'),
      console=self._console,
      disable=not self._live,
      transient=True,
    )
    fields: dict[str, Any] = {'rate': '', 'losses': '', 'best': ''}
    visible = num_runs > 1
    self._runs = self._progress.add_task('runs', total=num_runs, visible=visible, **fields)
    self._run = self._progress.add_task('', total=None, visible=False, **fields)

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
    self._label, self._total, self._last = label, total, 0.0
    fields: dict[str, Any] = {'rate': 'compiling', 'losses': '', 'best': ''}
    self._progress.reset(
      self._run, total=total, completed=step, description=label, visible=True, **fields
    )

  def progress(self, step: int, rate: float, losses: Mapping[str, float | None]) -> None:
    """Shows the state of training at a step: steps per second, and each task's loss."""
    shown = '  '.join(f'{name} {_number(loss)}' for name, loss in losses.items())
    self._progress.update(self._run, completed=step, rate=f'{rate:.1f}/s', losses=shown)
    if not self._live and time.monotonic() - self._last > _PLAIN_INTERVAL:
      self._last = time.monotonic()
      left = (self._total - step) / rate if rate else 0
      self.message(
        f'{self._label}: step {step}/{self._total}  {rate:.1f} steps/s  {_duration(left)} left  '
        f'loss: {shown}'
      )

  def evaluated(self, step: int, metric: str, value: float, best: float, improved: bool) -> None:
    """Shows the selection metric after an evaluation."""
    self._progress.update(self._run, best=f'best {metric} {_number(best)}')
    if not self._live:
      note = ' (best)' if improved else f' (best {_number(best)})'
      self.message(f'{self._label}: step {step}  validation {metric} {_number(value)}{note}')

  def finish(self, text: str) -> None:
    """Ends the run shown with a line that stays."""
    self._progress.update(self._run, visible=False)
    self._progress.advance(self._runs)
    self.message(f'{self._label}: {text}' if self._label else text)
    self._label = ''


def for_process(num_runs: int, process_index: int) -> Console:
  """The console of one process of many: only the first one speaks."""
  return Console(num_runs, quiet=process_index != 0)


def _number(value: float | None) -> str:
  return '-' if value is None else f'{value:.4f}' if abs(value) < 10 else f'{value:.4g}'


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes}:{seconds:02d}'
