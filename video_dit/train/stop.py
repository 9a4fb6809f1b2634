"""Signals: the first asks a run to save and end, the second ends it."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stop:
  """Whether SIGTERM or SIGINT has come. Use as a context, from the main thread.

  Over several hosts all must stop at the same step: there the preemption notice that
  JAX's coordinator spreads decides. SIGTERM is left to it, and SIGINT passed on to it.
  """

  def __init__(self):
    self.name: str | None = None
    self._signals = [signal.SIGINT]
    if jax.process_count() == 1:
      self._signals.append(signal.SIGTERM)

  def __enter__(self) -> "Stop":
    self._old = {number: signal.signal(number, self._note) for number in self._signals}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def asked(self, step: int) -> bool:
    """Whether to save and end after `step`; the same on every host."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.name = "a preemption notice"
    return self.name is not None

  def _note(self, number: int, _: FrameType | None) -> None:
    for each, handler in self._old.items():  # a second one, of either, ends at once
      signal.signal(each, handler)
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self.name = signal.Signals(number).name
