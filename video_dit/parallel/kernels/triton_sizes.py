"""Block sizes, warps and stages of the GPU kernels, by head size, dtype and device.

The largest that the compiler keeps in registers, or nearly, and whose stages fit into
shared memory (python -m tests.benchmarks.gpu_kernels). None was timed.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp

# KiB of shared memory that a program may use, by compute capability (NVIDIA, CUDA C++
# Programming Guide, technical specifications); other GPUs have 99.
_SHARED = (
  ("H100|H800|H20|H200|GH200|B200|GB200|B300|GB300", 227),
  ("A100|A800|A30", 163),
)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How a kernel cuts its arrays.

  Attributes:
    block: tokens of a block that a program owns.
    other: tokens of a block that it loops over.
    warps: of a program.
    stages: of the loop: blocks in flight at once.
  """

  block: int
  other: int
  warps: int
  stages: int


def head_size(size: int) -> int:
  """The power of two, at least 16, to which heads of a size are padded."""
  return max(16, 1 << (size - 1).bit_length())


def forward_sizes(size: int, dtype: jax.typing.DTypeLike, device: str) -> Sizes:
  """Sizes of the forward pass for heads of a size on a kind of GPU."""
  return _of(_FORWARD, size, dtype, device)


def key_sizes(
  size: int, dtype: jax.typing.DTypeLike, device: str, *, of_text: bool
) -> tuple[Sizes, int]:
  """Sizes of the keys' kernel, and programs that share a block's queries.

  Args:
    of_text: whether keys are few, so that a block of them has more queries and there are
      fewer blocks than cores.
  """
  sizes = _of(_BACKWARD, size, dtype, device)
  if not of_text:
    return sizes, 1
  return dataclasses.replace(sizes, block=min(32, sizes.block), warps=4), 4


def backward_sizes(size: int, dtype: jax.typing.DTypeLike, device: str) -> Sizes:
  """Sizes of the queries' kernel of the backward pass."""
  return _of(_BACKWARD, size, dtype, device)


# Bytes per number, largest head, least KiB of shared memory, and the sizes for these.
_Table = tuple[tuple[int, int, int, Sizes], ...]
_FORWARD: _Table = (
  (2, 128, 163, Sizes(128, 64, 8, 3)),
  (2, 128, 0, Sizes(64, 64, 4, 2)),
  (2, 256, 227, Sizes(128, 64, 8, 2)),
  (2, 256, 163, Sizes(64, 32, 4, 2)),
  (2, 256, 0, Sizes(32, 32, 4, 2)),
  (4, 64, 0, Sizes(64, 32, 4, 2)),
  (4, 128, 163, Sizes(64, 32, 4, 2)),
  (4, 128, 0, Sizes(32, 32, 4, 2)),
  (4, 256, 0, Sizes(16, 16, 4, 1)),
)
_BACKWARD: _Table = (
  (2, 128, 163, Sizes(128, 64, 8, 2)),
  (2, 128, 0, Sizes(64, 32, 4, 2)),
  (2, 256, 163, Sizes(64, 32, 8, 2)),
  (2, 256, 0, Sizes(32, 32, 4, 1)),
  (4, 64, 0, Sizes(32, 32, 4, 2)),
  (4, 128, 0, Sizes(32, 32, 4, 1)),
  (4, 256, 0, Sizes(16, 16, 4, 1)),
)


def _of(table: _Table, size: int, dtype: jax.typing.DTypeLike, device: str) -> Sizes:
  item = max(2, jnp.dtype(dtype).itemsize)
  for bytes_, head, shared, sizes in table:
    if bytes_ == item and size <= head and shared <= shared_memory(device):
      return sizes
  raise ValueError(f"No kernel supports heads of size {size} in {dtype} on {device}.")


def shared_memory(device: str) -> int:
  """KiB of shared memory of a program on a kind of GPU; the largest where empty."""
  for names, kib in _SHARED:
    if not device or re.search(rf"\b({names})\b", device):
      return kib
  return 99
