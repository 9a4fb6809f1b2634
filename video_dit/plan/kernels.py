"""Matrix FLOPs of the attention kernels, which the compiler does not count.

They are recognised by the names that `parallel/kernels/` gives them. The scope in which
the model calls them tells whether keys are the row's own or its text's: with as many keys
as queries they could be either. Only the blocks of queries and keys that the rows'
segments need are visited.
"""

import re

from video_dit.plan.hlo import Array, Computation, Instruction
from video_dit.plan.mix import Mix
from video_dit.plan.walk import Kernel

# Matrix products of a visited pair of blocks, whether of a backward pass, and whether the
# blocks are the keys'. The last entry is the TPU's, the two before it the GPU's.
_PRODUCTS = {
  "packed_attention_forward": (2, False, False),
  "packed_attention_backward_queries": (3, True, False),
  "packed_attention_backward_keys": (4, True, True),
  "packed_attention_backward": (5, True, True),
}
# Scopes of the model that call a kernel, and whether keys are those of the row's text.
SCOPES = {"self_attention": False, "cross_attention": True}
# FLOP/s, forward and backward, relative to blocks of 512, by a block's shorter side:
# from the compiler's schedules for v5p (tests/benchmarks/schedule.py).
_PACES = {128: (0.69, 0.82), 256: (0.72, 0.71), 1024: (1.0, 1.0)}


class Kernels:
  """Says what a custom call does.

  Args:
    mix: content of the rows.
  """

  def __init__(self, mix: Mix):
    self._mix = mix

  def __call__(self, where: Computation, call: Instruction) -> Kernel | None:
    """FLOPs of one call; None where the kernel, or its caller, is unknown."""
    found = re.search("|".join(_PRODUCTS), call.text)
    scope = re.search(rf"\b({'|'.join(SCOPES)})\b", call.op_name)
    if not found or not scope:
      return None
    products, backward, of_keys = _PRODUCTS[found[0]]
    given = [a for name in call.operands if name in where for a in where[name].arrays]
    read = _of_triton(given) if "triton" in call.text else _of_mosaic(given)
    if read is None:
      return None
    rows, heads, size, (own, block), (other, other_block) = read
    if of_keys:
      queries, keys, block, key_block = other, own, other_block, block
    else:
      queries, keys, key_block = own, other, other_block
    text = keys if SCOPES[scope[1]] else 0
    share = self._mix.visited(block, key_block, text=text)
    pairs = rows * heads * queries * keys * share
    paces = {} if "triton" in call.text else _PACES
    pace = paces.get(min(block, key_block), (1.0, 1.0))[backward]
    return Kernel(2.0 * products * pairs * size, backward, head_size=size, pace=pace)


_LOOPED = 64  # tokens of the blocks that GPU kernels loop over

# Rows, heads, head size; tokens, and tokens per block, of the side that the kernel owns
# and of the other side.
_Read = tuple[int, int, int, tuple[int, int], tuple[int, int]]


def _of_mosaic(given: list[Array]) -> _Read | None:
  """On TPU: `(R, A, N, K)`, `(R, A, M, K)`; three tables of own blocks, one of others."""
  wide = [array for array in _wide(given) if array.dims[2] > 1]
  tables = [a for a in given if len(a.dims) == 2 and a.dtype == "s32"]
  if len(wide) < 2 or len(tables) < 4:
    return None
  rows, heads, own, size = wide[0].dims
  other = next((a.dims[2] for a in wide if a.dims[2] != own), own)
  blocks = own // tables[0].dims[1], other // tables[3].dims[1]
  return rows, heads, size, (own, blocks[0]), (other, blocks[1])


def _of_triton(given: list[Array]) -> _Read | None:
  """On GPU: `(R, N, A, K)`, `(R, M, A, K)`, and a table `(R, I, 4)` of own blocks."""
  wide = _wide(given)
  tables = [a for a in given if a.dtype == "s32" and a.dims[2:] == (4,)]
  if len(wide) < 2 or not tables:
    return None
  rows, own, heads, size = wide[0].dims
  other = next((a.dims[1] for a in wide if a.dims[1] != own), own)
  block = own // tables[0].dims[1]
  return rows, heads, size, (own, block), (other, _LOOPED)


def _wide(given: list[Array]) -> list[Array]:
  return [a for a in given if len(a.dims) == 4 and a.dtype in ("bf16", "f16", "f32")]
