"""Block sizes of the TPU kernels, by shape and by the VMEM that a chip has."""

import dataclasses
import math

from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from video_dit.parallel.kernels.blocks import up_to

LANES = 128
BLOCK = 512

# VMEM of one core in MiB, by JAX's name of the chip.
VMEM = {
  "TPU v4": 16,
  "TPU v5": 64,
  "TPU v5p": 64,
  "TPU v5e": 128,
  "TPU v5 lite": 128,
  "TPU v6e": 128,
  "TPU v6 lite": 128,
  "TPU7": 64,
  "TPU7x": 64,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How the kernels cut rows.

  Attributes:
    head: head size, padded to whole lanes.
    block: tokens that a grid step owns: queries of the forward pass and of the queries'
      gradient, keys of the keys' gradient.
    key_block: tokens of the other side that one iteration of the loop takes.
    chunk: tokens of the other side in VMEM at once; a multiple of `key_block`.
    vmem: MiB that the compiler may use.
  """

  head: int
  block: int
  key_block: int
  chunk: int
  vmem: int = 64

  def compiler(self, *semantics) -> pltpu.CompilerParams:
    """Parameters with these grid dimensions, each `parallel` or `arbitrary`."""
    return pltpu.CompilerParams(
      dimension_semantics=semantics, vmem_limit_bytes=self.vmem * 2**20
    )


def cost(q, k, products: int, arrays: int) -> pl.CostEstimate:
  """The cost that the compiler's scheduler assumes: that of one segment a row.

  Args:
    q, k: `(R, A, N, K)` and `(R, A, M, K)`.
    products: matrix products for a pair of blocks.
    arrays: how many arrays like `q`, and like `k`, are read or written.
  """
  rows, heads, length, size = q.shape
  pairs = rows * heads * length * k.shape[2]
  return pl.CostEstimate(
    flops=2 * products * pairs * size,
    transcendentals=pairs,
    bytes_accessed=arrays * (q.size + k.size) * q.dtype.itemsize,
  )


def choose(
  shape: tuple[int, ...],
  others: int,
  dtype,
  device: str,
  *,
  of_keys: bool = False,
  block: int = 0,
) -> Sizes:
  """Sizes for a pass whose blocks are of an array of `shape`.

  Args:
    shape: `(R, N, A, K)` of the side that grid steps own, queries or keys.
    others: tokens of the other side, over which the loops run.
    dtype: of the products.
    device: kind of chip, as JAX names it; an unknown one is assumed to have 64 MiB.
    of_keys: whether grid steps own keys. Then a chunk's queries, their cotangents and the
      sum of their gradient fit into 0.8 of VMEM; else its keys and values with two
      buffers each fit into half.
    block: tokens of a row's blocks; 0 for `BLOCK`. A text's blocks have `LANES`.
  """
  head = head_size(shape[-1])
  vmem = VMEM.get(device, 64)
  wide = head * jnp.dtype(dtype).itemsize
  most = block or BLOCK
  block = min(most, up_to(shape[1], LANES))
  key_block = min(most, up_to(others, LANES))
  keys, queries = (shape[1], others) if of_keys else (others, shape[1])
  if keys < queries:  # a row's text, of short segments
    block, key_block = (LANES, key_block) if of_keys else (block, LANES)
  room, each = vmem * 2**20 / 2, 4 * wide
  if of_keys:
    # Queries, cotangents and the gradient's two buffers, and its float32 sum.
    room, each = 0.8 * vmem * 2**20, 4 * wide + 4 * head
  held = max(key_block, int(room / each) // key_block * key_block)
  chunks = math.ceil(others / held)
  return Sizes(head, block, key_block, up_to(math.ceil(others / chunks), key_block), vmem)


def head_size(size: int) -> int:
  """Head size in whole lanes."""
  return up_to(size, LANES)
