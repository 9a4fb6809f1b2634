"""Matrix FLOPs of the attention kernels, which the compiler does not count.

They are known by the names that `parallel/kernels/` gives them. Of the blocks of queries
and keys, those are visited that the rows' segments ask for.
"""

import re

from video_dit.plan.hlo import Computation, Instruction
from video_dit.plan.mix import Mix
from video_dit.plan.walk import Kernel

# Matrix products of a visited pair of blocks, and whether of a backward pass.
_PRODUCTS = {
  "packed_attention_forward": (2, False),
  "packed_attention_backward": (5, True),
}
# FLOP/s, forward and backward, over those with blocks of 512, by a block's shorter side:
# as the compiler's schedules for v5p have it (tests/benchmarks/schedule.py).
_PACES = {128: (0.66, 0.84), 256: (0.69, 0.73), 1024: (1.09, 1.0)}


class Kernels:
  """Says what a custom call does.

  Args:
    mix: that lies in the rows.
  """

  def __init__(self, mix: Mix):
    self._mix = mix

  def __call__(self, where: Computation, call: Instruction) -> Kernel | None:
    """FLOPs of one call; None where the kernel is not known."""
    found = re.search("|".join(_PRODUCTS), call.text)
    if not found:
      return None
    products, backward = _PRODUCTS[found[0]]
    given = [a for name in call.operands if name in where for a in where[name].arrays]
    # What the kernel owns, then the other side: (R, A, N, K), (R, A, M, K).
    wide = [
      array
      for array in given
      if len(array.dims) == 4 and array.dtype in ("bf16", "f32") and array.dims[2] > 1
    ]
    # The map: three tables of its own blocks, one of the other side's.
    tables = [a for a in given if len(a.dims) == 2 and a.dtype == "s32"]
    if len(wide) < 2 or len(tables) < 4:
      return None
    rows, heads, own, size = wide[0].dims
    other = next((a.dims[2] for a in wide if a.dims[2] != own), own)
    blocks = own // tables[0].dims[1], other // tables[3].dims[1]
    queries, keys = (other, own) if backward else (own, other)
    block, key_block = reversed(blocks) if backward else blocks
    # Keys of one device of a ring are part of the row's own, as its queries are.
    row = keys if keys not in (queries, self._mix.length) else self._mix.length
    share = self._mix.visited(row, block, key_block)
    pairs = rows * heads * queries * keys * share
    pace = _PACES.get(min(block, key_block), (1.0, 1.0))[backward]
    return Kernel(2.0 * products * pairs * size, backward, head_size=size, pace=pace)
