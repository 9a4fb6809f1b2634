"""Records of many shards by number, through a bounded number of open files.

An open shard is a file descriptor. A process may often have no more than 1,024 of them,
while a large data set has tens of thousands of shards; so only the shards that were read
last stay open. Thread-safe: a shard that leaves them while another thread reads it is
closed once that read is over, when nothing refers to its reader any more.
"""

import bisect
from collections.abc import Sequence
import errno
import functools
import os
import resource
from typing import Any

from array_record.python import array_record_module
import numpy as np

# Most shards that stay open, if the process may open four times as many files.
_MOST = 512
_FILES_OF_ALL = 4

_AT_RANDOM = "readahead_buffer_size:0"
# Where it is known, it prefetches 1 MB of each file that is opened unless told otherwise.
if "footer_prefetch_bytes" in (
  array_record_module.ArrayRecordReader.__init__.__doc__ or ""
):
  _AT_RANDOM += ",footer_prefetch_bytes:64K"

# What a machine or a mount refuses for reasons of its own. A bad sector and a bucket that
# does not answer may both be EIO, so that one is not here.
_OF_HOST = (
  errno.EMFILE,
  errno.ENFILE,
  errno.ENOMEM,
  errno.ENOTCONN,
  errno.ESTALE,
  errno.ETIMEDOUT,
)


class HostError(OSError):
  """A read that failed by the state of this machine; says nothing about the record."""


def refuse_host_error(path: str | os.PathLike, error: Exception) -> None:
  """Raises a `HostError` where an error says that the machine is at fault, not the file.

  Args:
    path: what was read.
    error: what came of it; ArrayRecord's own have no number, only the text.
  """
  text = str(error)
  for number in _OF_HOST:
    if getattr(error, "errno", None) == number or os.strerror(number) in text:
      soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
      raise HostError(
        number,
        f"{os.strerror(number)}: {os.fspath(path)} could not be read ({text}). Its"
        " records are not at fault: see to this machine, which allows a process"
        f" {soft} open files (`ulimit -n`), and run the same command again",
      ) from error


class Shards:
  """The records of some shards, end to end; `len`, and `[i]` for the bytes of one."""

  def __init__(self, paths: Sequence[str], lengths: Sequence[int]):
    """Opens none yet.

    Args:
      paths: of the shards.
      lengths: records of each.
    """
    self._paths = list(paths)
    self._ends = np.cumsum(lengths).tolist()
    self._open = functools.lru_cache(most_open(len(self._paths)))(_open_at_random)

  def __len__(self) -> int:
    return self._ends[-1]

  def place(self, i: int) -> tuple[str, int]:
    """Path of the shard that has record i, and the record's number there."""
    shard = bisect.bisect_right(self._ends, i)
    return self._paths[shard], i - (self._ends[shard - 1] if shard else 0)

  def __getitem__(self, i: int) -> bytes:
    path, offset = self.place(i)
    try:
      return self._open(path).read([offset])[0]
    except Exception:
      # A reader that failed once may fail for good, and files may be what is lacking.
      self._open.cache_clear()
      raise


def most_open(shards: int) -> int:
  """How many of some shards may be open at a time: at most a quarter of all files.

  Raises the process's own limit of open files where that allows for more.
  """
  wanted = min(shards, _MOST)
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  enough = _FILES_OF_ALL * wanted
  if soft != resource.RLIM_INFINITY and soft < enough:
    if hard != resource.RLIM_INFINITY:
      enough = min(enough, hard)
    try:
      resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
      soft = enough
    except (OSError, ValueError):
      pass  # A system may allow less than it says; then fewer shards stay open.
    return min(wanted, max(1, soft // _FILES_OF_ALL))
  return wanted


def open_shard(path: str | os.PathLike, options: str = "", **sizes: int) -> Any:
  """An ArrayRecord reader of a shard; it closes when nothing refers to it.

  Args:
    path: of the shard.
    options, sizes: as ArrayRecord's own; by default to read from first to last.

  Raises:
    RuntimeError: the file cannot be opened.
  """
  reader = array_record_module.ArrayRecordReader(os.fspath(path), options, **sizes)
  if not reader.ok():
    reader.read([0])  # Only this says why.
  return reader


def _open_at_random(path: str) -> Any:
  return open_shard(path, _AT_RANDOM, file_reader_buffer_size=1 << 15)
