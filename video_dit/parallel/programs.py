"""Compiled programs on disk: what was compiled once is read when a run is restarted.

JAX finds a program by what it computes, by the versions of JAX and its compiler, by their
flags and by the devices, wherever the folder is. A program that matches none, or does not
load, is compiled again, with a warning where it was found but could not be used.
"""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import stat

from absl import logging
import jax

_MOST_BYTES = 4 * 2**30
_HIT = "/jax/compilation_cache/cache_hits"

# For each device: those in which it may wait for others at once, and one to go on.
_THREADS = 3


def keep_in(folder: pathlib.Path | None) -> None:
  """Keeps compiled programs in a folder.

  `JAX_COMPILATION_CACHE_DIR` names another one; where that is set but empty, or
  `JAX_ENABLE_COMPILATION_CACHE` is false, nothing is kept. Programs that compile in less
  than a second are not kept.

  Args:
    folder: created when there is something to keep, and then of these programs alone:
      beyond 4 GiB those that were not used for longest are removed. None keeps nothing,
      and says so.
  """
  named = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if named == "":
    jax.config.update("jax_enable_compilation_cache", False)
    return
  if not named and folder is None:
    logging.warning(
      "there is no home directory, so training alone keeps what it compiles. Set"
      " JAX_COMPILATION_CACHE_DIR to a folder, or to nothing."
    )
    return
  if not named and folder is not None:
    prune(folder, _MOST_BYTES)
  jax.config.update("jax_compilation_cache_dir", named or str(folder))
  # Else the folder's own path becomes part of every program's key, and none is found once
  # the folder has moved. XLA's own caches, for GPUs only, save just a part of compiling,
  # and nothing where the program itself is found.
  if "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES" not in os.environ:
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def compile_anew_where_needed(devices: Sequence[jax.Device]) -> None:
  """Compiles every program anew where one from disk could wait for itself for ever.

  XLA for CPU loses, when it writes a program, the order between the collectives inside a
  loop or a branch and those outside. Loaded, a device waits in several at once, each in a
  thread of a pool that has one for each device or core. On two cores four of five resumed
  runs over four devices stopped so with jax 0.12.0 (none of six with 0.10.2), and none of
  10 with two or four threads for each device. `PJRT_NPROC` gives the pool more threads,
  which made steps on two cores about 15 % slower; with three for each device of one
  process programs are read from disk after all.

  Args:
    devices: of the mesh; nothing is changed unless they are several CPU devices.
  """
  if len(devices) == 1 or devices[0].platform != "cpu":
    return
  threads = os.environ.get("PJRT_NPROC", "")
  enough = threads.isdecimal() and int(threads) >= _THREADS * len(devices)
  if not enough or jax.process_count() > 1:  # Gloo takes messages in one order only.
    jax.config.update("jax_enable_compilation_cache", False)


def prune(folder: pathlib.Path, most: int) -> None:
  """Keeps the files that were used last, at most `most` bytes, and removes the others."""
  files = []
  for path in folder.glob("*"):
    with contextlib.suppress(FileNotFoundError):  # another process removed it
      about = path.stat()
      if stat.S_ISREG(about.st_mode):  # XLA may have a folder of its own there.
        used = max(about.st_atime, about.st_mtime)
        files.append((used, about.st_size, path))
  total = 0
  for _, size, path in sorted(files, reverse=True):
    total += size
    if total > most:
      path.unlink(missing_ok=True)


class Watch:
  """Counts the programs that are read from disk while it is open, as a context."""

  def __init__(self):
    self.found = 0

  def __enter__(self) -> "Watch":
    jax.monitoring.register_event_listener(self._note)
    return self

  def __exit__(self, *_) -> None:
    jax.monitoring.unregister_event_listener(self._note)

  def _note(self, event: str, **_) -> None:
    self.found += event == _HIT
