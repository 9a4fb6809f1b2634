"""What was found out about a file at some cost, kept while the file stays the same."""

from collections.abc import Callable
import os
from typing import Any, TypeVar

_MOST = 64
_Found = TypeVar("_Found")
_known: dict[tuple, Any] = {}


def once(path: str, what: str, find: Callable[[], _Found]) -> _Found:
  """Looks up what is known of a file of this size and time of change, or finds it.

  Args:
    path: the file.
    what: names the question.
    find: answers it.
  """
  stat = os.stat(path)
  key = what, path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
  if key not in _known:
    found = find()
    while len(_known) >= _MOST:
      del _known[next(iter(_known))]
    _known[key] = found
  return _known[key]
