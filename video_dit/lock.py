"""One run at a time in a folder: a file there is locked while a run uses it.

The lock is released when the process that holds it ends, however it ends. A run that is
started again while the one before it is still saving waits a while for it.
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
STATUS = 75  # exit status of a refused command, as in sysexits.h: a retry may succeed
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


class Busy(Exception):
  """Another run is using the folder."""


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
    flag: chooses another folder; named in the message.
    wait_seconds: how long to wait for another process to release it.
    say: called with a message when it has to wait.

  Raises:
    Busy: another process has it; the message says which.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / FILE).open("a+", encoding="utf-8") as file:
    if _take(file.fileno(), folder):
      _sign(file)
      yield
      return
    say(f"{folder}: {_holder(file)} is using this folder; waiting for it to finish")
    end = time.monotonic() + wait_seconds
    while not _take(file.fileno(), folder):
      if time.monotonic() > end:
        raise Busy(
          f"{folder}: {_holder(file)} is using this folder, and two runs would overwrite"
          f" each other's files. Stop it or let it finish, or choose another {flag}. If"
          f" its machine is gone and the lock remains, remove {folder / FILE}."
        )
      time.sleep(min(0.5, wait_seconds / 4))
    _sign(file)
    yield


def _take(number: int, folder: pathlib.Path) -> bool:
  """Whether the lock was acquired, or this file system has no locks."""
  try:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _TAKEN:
      return False
    logging.warning(
      "%s: its file system has no locks (%s), so a second run in it would not be noticed."
      " Make sure only one process runs.",
      folder,
      error,
    )
  return True


def _sign(file) -> None:
  """Writes down who has the lock, for the message of a process that is refused."""
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()


def _holder(file) -> str:
  file.seek(0)
  return file.readline().strip() or "another run"
