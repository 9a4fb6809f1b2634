"""Batches: what one training step sees."""

import dataclasses
from typing import Any

import jax

Array = Any  # np.ndarray from the loader, jax.Array on the mesh


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
  """Rows of packed segments. Segments are numbered from 1; 0 is padding.

  Per-segment fields have one column a segment: column s - 1 belongs to segment s.

  Attributes:
    patches: `(R, N, P)` float32, normalised latents cut into patches; 0 in padding.
    segments: `(R, N)` int32, the segment of each token.
    positions: `(R, N, 3)` float32, time, row and column of each token for the rotary
      embedding, as `data.patchify.positions` makes them.
    frames: `(R, N)` int32, index of the token's latent frame in its clip, from 0.
    keys: `(R, S, 2)` uint32, the clip's stable key; all its randomness comes from it.
    tokens: `(R, S)` int32, tokens of each segment; 0 where there is none.
    weights: `(R, S)` float32, loss weight of each segment; 0 where there is none.
    text: `(R, L, E)` float32, caption tokens of all segments end to end; 0 in padding.
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
