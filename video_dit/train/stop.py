"""Signals: the first asks a run to save and end, the second ends it."""

import contextlib
import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stop:
  """Whether SIGTERM, SIGINT or SIGHUP has come. Use as a context, from the main thread.

  Over several hosts all must stop at the same step: there the preemption notice that
  JAX's coordinator spreads decides. SIGTERM is left to it, and the others are passed on
  to it.

  SIGHUP says that the terminal is closing, often twice, and nothing can be written to it
  from then on. It stays ignored under nohup.

  A thread reports a signal at once: while a step is compiled, for a
  minute perhaps, no handler of Python's runs.
  """

  def __init__(self):
    self.name: str | None = None
    self._signals = [signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
      self._signals.append(signal.SIGHUP)
    if jax.process_count() == 1:
      self._signals.append(signal.SIGTERM)

  def __enter__(self) -> "Stop":
    self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
    self._old = {number: signal.signal(number, self._note) for number in self._signals}
    come, self._come = os.pipe()
    os.set_blocking(self._come, False)
    self._old_come = signal.set_wakeup_fd(self._come, warn_on_full_buffer=False)
    self._speaker = threading.Thread(target=self._say, args=(come,), daemon=True)
    self._speaker.start()
    return self

  def __exit__(self, *_) -> None:
    signal.set_wakeup_fd(self._old_come)
    os.write(self._come, bytes(1))  # 0 is no signal, and ends the thread
    self._speaker.join()
    os.close(self._come)
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def asked(self, step: int) -> bool:
    """Whether to save and end after `step`; the same on every host."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.name = "a preemption notice"
    return self.name is not None

  def _say(self, come: int) -> None:
    """Reports the first of our signals; ends with the context."""
    said = False
    with os.fdopen(come, "rb", buffering=0) as numbers:
      while number := numbers.read(1)[0]:
        if number in self._signals and not said:
          said = True
          name = signal.Signals(number).name
          with contextlib.suppress(OSError):  # a terminal that is gone
            print(
              f"\n{name}: the run stops after this step (the first is compiled"
              " before it) and saves. A second signal stops it at once.",
              file=sys.stderr,
              flush=True,
            )

  def _note(self, number: int, _: FrameType | None) -> None:
    for each, handler in self._old.items():  # a second one, of any, ends at once
      signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else handler)
    if number == signal.SIGHUP:
      self._leave_terminals()
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
    else:
      self.name = signal.Signals(number).name

  def _leave_terminals(self) -> None:
    """Sends what goes to a terminal nowhere, where writing it would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in self._terminals:
      os.dup2(nowhere, stream)
    os.close(nowhere)
