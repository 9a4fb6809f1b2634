"""Batches: what one training step sees."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # np.ndarray from the loader, jax.Array on the mesh


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """Rows of packed segments. Segments are numbered from 1; 0 is padding.

  Per-segment fields have one column a segment: column s - 1 belongs to segment s.

  Attributes:
    patches: `(R, N, P)` normalised latents cut into patches; 0 in padding. Float16 from
      the loader, as they are stored: half the copying, and cast where they are used.
    segments: `(R, N)` int32, the segment of each token.
    positions: `(R, N, 3)` float32, time, row and column of each token for the rotary
      embedding, as `data.patchify.positions` makes them.
    frames: `(R, N)` int32, index of the token's latent frame in its clip, from 0.
    keys: `(R, S, 2)` uint32, the clip's stable key; all its randomness comes from it.
    tokens: `(R, S)` int32, tokens of each segment; 0 where there is none.
    weights: `(R, S)` float32, loss weight of each segment; 0 where there is none.
    text: `(R, L, E)` caption tokens of all segments end to end; 0 in padding. Float16
      from the loader, too.
    text_segments: `(R, L)` int32, the segment of each caption token.
  """

  patches: Array
  segments: Array
  positions: Array
  frames: Array
  keys: Array
  tokens: Array
  weights: Array
  text: Array
  text_segments: Array


def blank(
  rows: int,
  tokens: int,
  segments: int,
  text: int,
  *,
  patch_dim: int,
  text_width: int,
  dtype: type,
) -> Batch:
  """Rows of nothing but padding, as NumPy arrays; patches and text of one dtype."""
  return Batch(
    patches=np.zeros((rows, tokens, patch_dim), dtype),
    segments=np.zeros((rows, tokens), np.int32),
    positions=np.zeros((rows, tokens, 3), np.float32),
    frames=np.zeros((rows, tokens), np.int32),
    keys=np.zeros((rows, segments, 2), np.uint32),
    tokens=np.zeros((rows, segments), np.int32),
    weights=np.zeros((rows, segments), np.float32),
    text=np.zeros((rows, text, text_width), dtype),
    text_segments=np.zeros((rows, text), np.int32),
  )


def members(segments_RN: jax.Array, num_segments: int) -> jax.Array:
  """Which tokens belong to each segment, `(R, N, S)` bool."""
  numbers_S = jnp.arange(1, num_segments + 1, dtype=segments_RN.dtype)
  return segments_RN[:, :, None] == numbers_S[None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
  """Windows of pixels, on which the autoencoder is trained.

  Attributes:
    clips: `(B, F, H, W, 3)` uint8.
    keys: `(B, 2)` uint32, the clip's stable key.
  """

  clips: Array
  keys: Array
