"""One run at a time in a folder: a file there is locked while a run is at work.

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
STATUS = 75  # of a command that was refused, as of sysexits.h: another start may do
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class Busy(Exception):
  """Another run is at work in the folder."""


@contextlib.contextmanager
def held(
  folder: pathlib.Path,
  *,
  flag: str,
  wait_seconds: float,
  say: Callable[[str], None] = print,
) -> Iterator[None]:
  """Holds the lock of a folder, which is made where missing; use as a context.

  On a file system without locks it warns, and goes on.

  Args:
    folder: of the run.
    flag: that another folder may be chosen by, for the message.
    wait_seconds: how long another process may still have it.
    say: told of waiting.

  Raises:
    Busy: another process has it; the message says which.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / FILE).open("a+", encoding="utf-8") as file:
    if _take(file.fileno(), folder):
      _sign(file)
      yield
      return
    say(f"{folder}: {_holder(file)} is at work there; waits for its end")
    end = time.monotonic() + wait_seconds
    while not _take(file.fileno(), folder):
      if time.monotonic() > end:
        raise Busy(
          f"{folder}: {_holder(file)} is at work there, and two runs would overwrite"
          f" each other's files. Stop it or let it end, or choose another {flag}. If its"
          f" machine is gone and the disk still keeps its lock, remove {folder / FILE}."
        )
      time.sleep(min(0.5, wait_seconds / 4))
    _sign(file)
    yield


def _take(number: int, folder: pathlib.Path) -> bool:
  """Whether the lock could be had, or there are none on this file system."""
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _TAKEN:
      return False
    logging.warning(
      "%s: its file system has no locks (%s), so a second run in it would not be noticed."
      " See to it that there is one alone.",
      folder,
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
