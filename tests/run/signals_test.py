"""Signals are noted between steps, and end the process otherwise; see also `train_test`."""

import os
import signal
import time

import pytest

from mtl_jax.run import signals as signals_lib


@pytest.fixture
def ended(monkeypatch):
  """What would have ended the process."""
  calls = []
  monkeypatch.setattr(signals_lib, '_end', lambda *call: calls.append(call))
  return calls


def _until(condition):
  deadline = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_first_signal_is_noted_and_a_second_one_ends(ended, capfd):
  before = signal.getsignal(signal.SIGTERM)
  with signals_lib.Signals() as signals:
    assert signals.received is None
    signals.hold(True)
    os.kill(os.getpid(), signal.SIGTERM)
    _until(lambda: signals.received)
    assert (signals.received, signals.exit_code, ended) == (signal.SIGTERM, 143, [])
    _until(lambda: 'stopping after this step; once more' in capfd.readouterr().err)
    os.kill(os.getpid(), signal.SIGINT)
    _until(lambda: ended)
    signals.received = None
  ((code, text),) = ended
  assert code == 143
  assert text.startswith('stopped at once; the same command')
  assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize('held_before', [False, True])
def test_a_signal_ends_where_nothing_is_unsaved(held_before, ended):
  with signals_lib.Signals() as signals:
    signals.hold(held_before)
    signals.hold(False)
    os.kill(os.getpid(), signal.SIGINT)
    _until(lambda: ended)
    signals.received = None
  ((code, text),) = ended
  assert code == 130
  assert 'no trained step was lost' in text
