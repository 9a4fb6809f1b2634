"""Ctrl-C in a command: one line on stderr, and the exit status that shells expect."""

import sys
from types import TracebackType


def install() -> None:
  """From here on an uncaught KeyboardInterrupt shows no traceback."""
  sys.excepthook = _show


def _show(
  kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
  if not issubclass(kind, KeyboardInterrupt) or "--debug" in sys.argv:
    sys.__excepthook__(kind, error, trace)
    return
  print("\nstopped", *error.args, sep=": ", file=sys.stderr, flush=True)
