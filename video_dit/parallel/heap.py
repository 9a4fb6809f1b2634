"""The memory of a process whose devices are CPUs.

A compiled step asks for all its temporary memory at once and gives it back at its end.
The C library takes so large a piece from the system, which hands it out page by page and
clears each on its first use: for a small transformer that was a quarter of a step.
"""

import ctypes
import sys

import jax

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep() -> None:
  """Has this process keep the memory that it frees; must come before a device is used.

  Steps then run in the thread that asks for them: only the main thread's heap grows to
  any size, and nothing is gained on a CPU by a step that runs beside its caller. Without
  glibc, memory stays as it was.
  """
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  if sys.platform != "linux":
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is not None:
    mallopt(_MMAP_MAX, 0)  # Nothing is mapped for itself, and unmapped when it is freed.
    mallopt(_TRIM_THRESHOLD, -1)  # The heap's end is never given back.
