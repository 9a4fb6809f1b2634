"""One run at a time in a workdir: a file there is locked while a run is at work.

The lock goes with the process that holds it, however it ends. A run that starts again
while the one before it is still saving waits for it a while.
"""

from collections.abc import Callable, Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import socket
import time

from absl import logging

FILE = "lock"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


@contextlib.contextmanager
def held(
  workdir: pathlib.Path, *, wait_seconds: float, say: Callable[[str], None] = print
) -> Iterator[None]:
  """Holds the lock of a workdir, which is made where missing; use as a context.

  On a file system without locks it warns, and goes on.

  Args:
    workdir: of the run.
    wait_seconds: how long another process may still have it.
    say: told of waiting.

  Raises:
    ValueError: another process has it; the message says which.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / FILE).open("a+", encoding="utf-8") as file:
    if _take(file.fileno(), workdir):
      _sign(file)
      yield
      return
    say(f"{workdir}: {_holder(file)} is at work there; waits for its end")
    end = time.monotonic() + wait_seconds
    while not _take(file.fileno(), workdir):
      if time.monotonic() > end:
        raise ValueError(
          f"{workdir}: {_holder(file)} is at work there, and two runs would overwrite"
          " each other's checkpoints and metrics. Stop it or let it end, or choose"
          " another --workdir."
        )
      time.sleep(min(0.5, wait_seconds / 4))
    _sign(file)
    yield


def _take(number: int, workdir: pathlib.Path) -> bool:
  """Whether the lock could be had, or there are none on this file system."""
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _TAKEN:
      return False
    logging.warning(
      "%s: its file system has no locks (%s), so a second run in it would not be noticed."
      " See to it that there is one alone.",
      workdir,
      error,
    )
  return True


def _sign(file) -> None:
  """Says who has the lock, for the message of who does not get it."""
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()


def _holder(file) -> str:
  file.seek(0)
  return file.readline().strip() or "another run"
