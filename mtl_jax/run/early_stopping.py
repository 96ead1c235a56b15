"""Which evaluation was the best, and whether to stop training. Metrics are computed elsewhere."""

import dataclasses
from typing import Any

from mtl_jax.plain import is_number


@dataclasses.dataclass
class EarlyStopping:
  """Follows one validation metric.

  Any gain makes a new best; only a gain above `min_delta` over the last such gain makes patience
  start anew.

  Attributes:
    higher_is_better: the metric's direction.
    patience: evaluations without such a gain after which to stop; 0: never.
    min_delta: in the metric's unit.
    best: the best value so far; None before the first.
    best_step: its step.
    reference: the value that the next gain is measured from.
    waited: evaluations since then.
  """

  higher_is_better: bool = True
  patience: int = 0
  min_delta: float = 0.0
  best: float | None = None
  best_step: int | None = None
  reference: float | None = None
  waited: int = 0

  def update(self, step: int, value: float) -> bool:
    """Takes in one evaluation; returns whether it is the best so far."""
    sign = 1.0 if self.higher_is_better else -1.0
    if self.reference is None or sign * (value - self.reference) > self.min_delta:
      self.reference, self.waited = value, 0
    else:
      self.waited += 1
    if self.best is not None and sign * (value - self.best) <= 0:
      return False
    self.best, self.best_step = value, step
    return True

  @property
  def should_stop(self) -> bool:
    """Whether patience has run out."""
    return 0 < self.patience <= self.waited

  def state(self) -> dict[str, Any]:
    """What `load` needs, as JSON."""
    return {name: getattr(self, name) for name in ('best', 'best_step', 'reference', 'waited')}

  def load(self, state: dict[str, Any]) -> None:
    """Goes on from a saved state; raises ValueError for what is none."""
    known = [value is None or is_number(value) for value in state.values()]
    if set(state) != set(self.state()) or not all(known):
      raise ValueError(f'early stopping stands at {state}')
    for name, value in state.items():
      setattr(self, name, value)
