"""Ctrl-C in a command: one line on stderr, and the exit status that shells expect.

Python ignores what is raised in some places, such as JAX's callback of the garbage
collector; a Ctrl-C that falls there is repeated until it is obeyed.
"""

import _thread
import os
import signal
import sys
import threading
import time
from types import TracebackType

_AGAIN_SECONDS = 0.1
_coming = False  # whether the signal will be sent again


def install() -> None:
  """From here on Ctrl-C is not lost, and an uncaught one shows no traceback."""
  sys.excepthook = _show
  sys.unraisablehook = _ignored


def _show(
  kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
  lost = issubclass(kind, ImportError) and _follows_interrupt(error)
  if not (lost or issubclass(kind, KeyboardInterrupt)) or "--debug" in sys.argv:
    sys.__excepthook__(kind, error, trace)
    return
  said = () if lost else error.args
  print("\nstopped", *said, sep=": ", file=sys.stderr, flush=True)
  if lost:  # Python would exit as for any error.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _follows_interrupt(error: BaseException | None) -> bool:
  """Whether a library made another error of Ctrl-C, as some do while imported."""
  while error is not None and not isinstance(error, KeyboardInterrupt):
    error = error.__cause__ or error.__context__
  return error is not None


def _ignored(lost: "sys.UnraisableHookArgs") -> None:
  global _coming
  if not issubclass(lost.exc_type, KeyboardInterrupt):
    sys.__unraisablehook__(lost)
  elif not _coming:
    _coming = True
    # Not by `threading`, whose locks the interrupted code may hold.
    _thread.start_new_thread(_again, ())


def _again() -> None:
  """Sends the signal once more, when the callback that ignored it has returned."""
  global _coming
  time.sleep(_AGAIN_SECONDS)
  _coming = False
  main = threading.main_thread().ident
  assert main is not None
  signal.pthread_kill(main, signal.SIGINT)  # which wakes it where it waits
