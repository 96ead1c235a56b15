"""Trains one variant with one seed: steps, logs, evaluations, checkpoints, results.

The order of variants and seeds is kept by `train`.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mtl_jax import checkpoint, errors
from mtl_jax.build import program as program_lib
from mtl_jax.data import pipeline
from mtl_jax.evaluate import Evaluator, selection
from mtl_jax.plain import Plain, is_number
from mtl_jax.run import console as console_lib
from mtl_jax.run import early_stopping
from mtl_jax.run import window as window_lib
from mtl_jax.run import workdir as workdir_lib


class Interrupted(Exception):  # noqa: N818 (a stop that was asked for is no error)
  """Training was asked to stop, and what it needs to go on is saved."""


@dataclasses.dataclass
class Timing:
  """Seconds spent so far: all, in training steps, and of these on data and on compiling."""

  total: float = 0.0
  steps: float = 0.0
  waiting: float = 0.0
  compiling: float = 0.0
  compiled: int = 0  # steps that compiled, not seconds

  @classmethod
  def load(cls, saved: dict[str, Any]) -> 'Timing':
    """What `dataclasses.asdict` gave; raises TypeError or ValueError for anything else."""
    if not all(map(is_number, saved.values())):
      raise ValueError(f'timing is {saved}')
    return cls(**saved)


class Training:
  """One run: its state, and what the host remembers beside it."""

  def __init__(
    self,
    run: Plain,
    data: pipeline.Data,
    program: program_lib.Program,
    workdir: workdir_lib.Workdir,
    console: console_lib.Console,
    total_steps: int,
    should_stop: Callable[[], bool],
    unsaved: Callable[[bool], None],
  ):
    self._run = run
    self._data = data
    self._program = program
    self._workdir = workdir
    self._console = console
    self._total = total_steps
    self._should_stop = should_stop
    self._unsaved = unsaved
    self._names = program.model.task_names
    self._evaluator = Evaluator(
      program.model, data, run['eval']['batch_size'], program.eval_step, program.put
    )
    train = run['train']
    self._every = {'log': train['log_every']}
    self._every['eval'] = train['eval_every'] or data.steps_per_epoch
    self._every['checkpoint'] = train['checkpoint_every'] or self._every['eval']
    stopping = train['early_stopping']
    self._metric = stopping['metric']
    self._stopping = early_stopping.EarlyStopping(
      selection.higher_is_better(self._metric, program.model.tasks),
      stopping['patience'],
      stopping['min_delta'],
    )
    self._best_validation: dict[str, Any] = {}
    self._window = window_lib.Window(self._names)
    self._pending: list[tuple[int, Any]] = []  # metrics still on the device, by step
    self._timing = Timing()
    self._logged = Timing()  # as of the last log line

  def train(self) -> dict[str, Any]:
    """Trains to the end, from the last checkpoint if there is one.

    Returns:
      the results, as written to results.json.

    Raises:
      Interrupted: `should_stop` said so; the state is saved.
      NonFiniteError: a loss or gradient is not finite; the last checkpoint is intact.
      WorkdirError: a file cannot be written.
    """
    began = time.perf_counter()
    with checkpoint.Checkpoints(self._workdir.checkpoints) as checkpoints:
      iterator = self._data.train()
      state = self._restore(checkpoints, iterator)
      step = int(state.step)
      label = f'{self._run["variant"]} seed {self._run["seed"]}'
      self._console.start(label, step, self._total)
      if step:
        self._console.message(f'{label}: goes on from step {step}')
      log = workdir_lib.Metrics(self._workdir, step)
      began -= self._timing.total
      try:
        while step < self._total and not self._stopping.should_stop:
          clock = time.perf_counter()
          batch = next(iterator)
          self._timing.waiting += time.perf_counter() - clock
          compilations, called = self._program.compilations(), time.perf_counter()
          state, metrics = self._program.step(state, self._program.put(batch))
          if self._program.compilations() > compilations:
            self._timing.compiling += time.perf_counter() - called
            self._timing.compiled += 1
          step += 1
          self._unsaved(True)
          self._console.step(step)
          self._pending.append((step, metrics))
          last = step == self._total
          due = {name: last or step % every == 0 for name, every in self._every.items()}
          stop = self._stop_agreed(due['log'])
          if any(due.values()) or stop:
            self._fetch()
          self._timing.steps += time.perf_counter() - clock
          if due['log']:
            log.write(self._training_record(step))
          best = due['eval'] and self._evaluate(state, step, log)
          if due['checkpoint'] or best or stop or self._stopping.should_stop:
            self._timing.total = time.perf_counter() - began
            checkpoints.save(step, state, self._host_state(iterator), best=best)
          if stop and not last:
            raise Interrupted(
              f'{label}: stopped after step {step}; the same command goes on from it'
            )
      finally:
        self._unsaved(False)
        log.close()
        del iterator  # ends the threads that prefetch
      restored = checkpoints.restore_best(state)
      assert restored is not None, 'training ends with an evaluation'
      results = self._results(restored[0], step)
    results['seconds'] = time.perf_counter() - began
    self._workdir.write_json('results.json', results)
    return results

  def _restore(self, checkpoints: checkpoint.Checkpoints, iterator: Any) -> Any:
    """The state to start from; also brings the iterator and the host's memory there."""
    state = self._program.init(self._run['seed'])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    self._workdir.check_space(3 * size)  # the best, the last, and one being written
    restored = checkpoints.restore(state)
    if restored is None:
      return state
    state, host = restored
    try:
      self._recall(host, iterator)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
      raise errors.WorkdirError(
        f'Cannot read the checkpoint of step {int(state.step)} in {self._workdir.checkpoints}: '
        f'what the host remembers is of another form ({e!r}). Remove {self._workdir.path} to train '
        'from the start.'
      ) from e
    return state

  def _recall(self, host: dict[str, Any], iterator: Any) -> None:
    """Brings the iterator and the host's memory to where `_host_state` was; raises for odd ones."""
    place, start = host['data'], iterator.get_state()
    if jax.tree.map(type, place) != jax.tree.map(type, start):
      raise ValueError(f'data is {place}')
    iterator.set_state(place)
    self._stopping.load(host['stopping'])
    self._best_validation = dict(host['best_validation'])
    self._window.load(host['window'])
    self._timing, self._logged = Timing.load(host['timing']), Timing.load(host['logged'])

  def _host_state(self, iterator: Any) -> dict[str, Any]:
    return {
      'data': iterator.get_state(),
      'stopping': self._stopping.state(),
      'best_validation': self._best_validation,
      'window': self._window.state(),
      'timing': dataclasses.asdict(self._timing),
      'logged': dataclasses.asdict(self._logged),
    }

  def _stop_agreed(self, due: bool) -> bool:
    """Whether to stop: all processes do so after the same step, and ask each other when due."""
    if jax.process_count() == 1:
      return self._should_stop()
    return due and bool(np.any(multihost_utils.process_allgather(np.asarray(self._should_stop()))))

  def _fetch(self) -> None:
    """Waits for the device and takes in the metrics of all steps since the last time."""
    steps, metrics = zip(*self._pending, strict=True)
    for step, values in zip(steps, jax.device_get(list(metrics)), strict=True):
      window_lib.check_finite(step, values, self._names)
      self._window.add(values)
    self._pending.clear()

  def _training_record(self, step: int) -> dict[str, Any]:
    means = self._window.means()
    self._window.clear()
    seconds = self._timing.steps - self._logged.steps
    waiting = self._timing.waiting - self._logged.waiting
    steps = step - (step - 1) // self._every['log'] * self._every['log']
    compiling = self._timing.compiling - self._logged.compiling
    running = steps - (self._timing.compiled - self._logged.compiled)
    self._logged = dataclasses.replace(self._timing)
    rate = running / (seconds - compiling) if running > 0 and seconds > compiling else 0.0
    self._console.progress(step, rate, means['loss'])
    return {
      'step': step,
      'split': 'train',
      'epoch': step / self._data.steps_per_epoch,
      **means,
      'learning_rate': float(self._program.schedule(step - 1)),
      'steps_per_second': rate or (steps / seconds if seconds else 0.0),
      'data_wait': waiting / seconds if seconds else 0.0,
    }

  def _evaluate(self, state: Any, step: int, log: workdir_lib.Metrics) -> bool:
    """Evaluates on the validation split; returns whether the state is the best so far."""
    values = self._evaluate_split(state.variables, 'validation', step)
    epoch = step / self._data.steps_per_epoch
    log.write({'step': step, 'split': 'validation', 'epoch': epoch, **values})
    value = selection.value(self._metric, values)
    best = self._stopping.update(step, value)
    if best:
      self._best_validation = values
    assert self._stopping.best is not None
    self._console.evaluated(step, self._metric, value, self._stopping.best, best)
    return best

  def _evaluate_split(self, params: Any, split: str, step: int) -> dict[str, Any]:
    try:
      return self._evaluator.evaluate(params, split)
    except errors.NonFiniteError as e:
      raise errors.NonFiniteError(f'{split} split after step {step}: {e}') from None

  def _results(self, best: Any, step: int) -> dict[str, Any]:
    run, timing, tasks = self._run, self._timing, self._program.model.tasks
    results = {
      'name': run['name'],
      'variant': run['variant'],
      'seed': run['seed'],
      'order': list(run['order']),  # of all variants
      'tasks': list(self._names),
      'main_metrics': {task.name: task.metrics[0] for task in tasks},
      'directions': {
        name: {'higher_is_better': metric.higher_is_better, 'fraction': metric.fraction}
        for task in tasks
        for name, metric in task.rules.metrics.items()
        if name in task.metrics
      },
      'selection': self._metric,
      'best_step': self._stopping.best_step,
      'steps': step,
      'validation': self._best_validation,
    }
    if run['eval']['test']:
      results['test'] = self._evaluate_split(best.variables, 'test', int(best.step))
    results |= {
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(best.params)),
      'steps_per_second': step / timing.steps,
      'data_wait': timing.waiting / timing.steps,
      'compilations': self._program.compilations(),
    }
    if self._data.notes:
      results['data'] = dict(self._data.notes)
    if meetings := self._data.meetings():
      results['meetings'] = {'/'.join(pair): share for pair, share in meetings.items()}
    if run['paper']:
      results['paper'] = run['paper']
    return results
