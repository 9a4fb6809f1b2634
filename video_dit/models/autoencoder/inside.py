"""Clips of several sizes in one buffer, so that few shapes are compiled.

A buffer holds each clip from its first row and column on. Layers that act on single
points need not know; those that look around or take means are told where each clip ends,
and then return what they would for the clip by itself.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

Fill = Literal["constant", "edge"]  # what lies beyond the clip: zeros, or its outermost


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inside:
  """Which part of their buffer the clips of a batch fill.

  Attributes:
    size_B2: rows and columns of each clip, int32, in points of the buffer.
    buffer: rows and columns of the buffer. At another resolution, both scale alike.
  """

  size_B2: jax.Array
  buffer: tuple[int, int] = dataclasses.field(metadata={"static": True})

  def mask(self, x_BFHWC: jax.Array) -> jax.Array:
    """Which points belong to the clips, bool `(B, 1, H, W, 1)`, at x's resolution."""
    rows_B, columns_B = self._extent(x_BFHWC)
    _, _, height, width, _ = x_BFHWC.shape
    rows_BH = jnp.arange(height)[None] < rows_B[:, None]
    columns_BW = jnp.arange(width)[None] < columns_B[:, None]
    return (rows_BH[:, :, None] & columns_BW[:, None])[:, None, :, :, None]

  def surround(self, x_BFHWC: jax.Array, fill: Fill) -> jax.Array:
    """Fills the space beyond each clip as if it had a buffer to itself."""
    if fill == "constant":
      return jnp.where(self.mask(x_BFHWC), x_BFHWC, jnp.zeros((), x_BFHWC.dtype))
    for axis, extent_B in zip((2, 3), self._extent(x_BFHWC), strict=True):
      index_N = jnp.arange(x_BFHWC.shape[axis])
      index_BN = jnp.minimum(index_N[None], extent_B[:, None] - 1)
      others = tuple(a for a in range(1, 5) if a != axis)
      x_BFHWC = jnp.take_along_axis(x_BFHWC, jnp.expand_dims(index_BN, others), axis=axis)
    return x_BFHWC

  def _extent(self, x_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows and columns of each clip at x's resolution."""
    rows, columns = self.buffer
    _, _, height, width, _ = x_BFHWC.shape
    return self.size_B2[:, 0] * height // rows, self.size_B2[:, 1] * width // columns
