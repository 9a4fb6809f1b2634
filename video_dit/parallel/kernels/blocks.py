"""The block map: which blocks of keys a block of queries has to visit.

Segments of a packed row are runs with ascending numbers, so a block's segments are an
interval of numbers, and the key blocks whose intervals overlap it are adjacent: the first
and the last one describe them all. On rows packed otherwise, the blocks between are
visited too; every kernel compares segments inside a block, so its result is exact for any
numbers.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockMap:
  """For `I` blocks of queries, the run of key blocks that each visits.

  Attributes:
    first_RI: first key block visited.
    last_RI: one past the last; equal to `first_RI` where none is visited.
  """

  first_RI: jax.Array
  last_RI: jax.Array

  @property
  def visits(self) -> jax.Array:
    """Total number of blocks visited."""
    return (self.last_RI - self.first_RI).sum()


def block_map(
  segments_RN: jax.Array, key_segments_RM: jax.Array, block: int, key_block: int
) -> BlockMap:
  """Finds the key blocks that share a segment with each block of queries.

  Args:
    segments_RN, key_segments_RM: 0 is padding, which visits nothing.
    block, key_block: queries and keys of a block; they divide N and M.
  """
  low_RI, high_RI = _interval(segments_RN, block)
  key_low_RJ, key_high_RJ = _interval(key_segments_RM, key_block)
  meet_RIJ = low_RI[:, :, None] <= key_high_RJ[:, None]
  meet_RIJ &= key_low_RJ[:, None] <= high_RI[:, :, None]
  count = meet_RIJ.shape[-1]
  first_RI = jnp.argmax(meet_RIJ, axis=-1)
  last_RI = count - jnp.argmax(meet_RIJ[:, :, ::-1], axis=-1)
  some_RI = meet_RIJ.any(-1)
  return BlockMap(
    jnp.where(some_RI, first_RI, 0).astype(jnp.int32),
    jnp.where(some_RI, last_RI, 0).astype(jnp.int32),
  )


def runs(
  segments_RN: jax.Array, key_segments_RM: jax.Array, block: int, key_block: int
) -> jax.Array:
  """The block map, with the run inside it that needs no mask.

  Args:
    segments_RN, key_segments_RM, block, key_block: as of `block_map`.

  Returns:
    `(R, I, 4)` int32: the first key block visited; the first that holds only the segment
    that fills the block of queries; one past the last such; one past the last visited.
    The two in the middle are equal where there is none, or where others lie between.
  """
  found = block_map(segments_RN, key_segments_RM, block, key_block)
  full_RI = whole(segments_RN, block, -1)
  full_RJ = whole(key_segments_RM, key_block, -2)
  same_RIJ = full_RI[:, :, None] == full_RJ[:, None]
  count_RI = same_RIJ.sum(-1)
  first_RI = jnp.argmax(same_RIJ, axis=-1)
  behind_RI = same_RIJ.shape[-1] - jnp.argmax(same_RIJ[:, :, ::-1], axis=-1)
  run_RI = (count_RI > 0) & (behind_RI - first_RI == count_RI)
  first_RI = jnp.where(run_RI, first_RI, found.first_RI)
  behind_RI = jnp.where(run_RI, behind_RI, found.first_RI)
  ends = found.first_RI, first_RI, behind_RI, found.last_RI
  return jnp.stack(ends, axis=-1).astype(jnp.int32)


def whole(segments_RN: jax.Array, block: int, other: int) -> jax.Array:
  """The one segment that fills a block, `(R, I)`; `other` where there is none."""
  blocks = einops.rearrange(jnp.int32(segments_RN), "r (i b) -> r i b", b=block)
  low, high = blocks.min(-1), blocks.max(-1)
  return jnp.where((low == high) & (low > 0), low, other).astype(jnp.int32)


def up_to(length: int, step: int) -> int:
  """The least multiple of `step` that is at least `length`."""
  return length + -length % step


def padded(x: jax.Array, length: int) -> jax.Array:
  """Zero-pads axis 1 to `length`; segment 0 is padding."""
  return jnp.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2))


def _interval(segments_RN: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
  """Least and greatest segment of each block, ignoring padding; empty if it has none."""
  blocks = einops.rearrange(jnp.int32(segments_RN), "r (i b) -> r i b", b=block)
  most = jnp.iinfo(jnp.int32).max
  return jnp.where(blocks > 0, blocks, most).min(-1), blocks.max(-1)
