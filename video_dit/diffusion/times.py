"""Times and noise of segments: all randomness is a function of seed, step and clip.

Nothing here depends on the row or the slot that a clip lands in, nor on how rows are
spread over devices: each segment draws from its own key, each token from its own
counter below it.
"""

import jax
import jax.numpy as jnp

from video_dit import config

# Purposes of draws; one segment's draws never share bits.
PURPOSES = TIMES, NOISE, GIVEN, OTHER = range(4)


def segment_keys(
  keys_RS2: jax.Array,
  seed: int | jax.Array,
  step: int | jax.Array,
  purpose: int,
) -> jax.Array:
  """Random keys of segments, `(R, S)` typed keys: the run's folded into the clip's.

  Args:
    keys_RS2: stable keys of the clips, uint32.
    seed: of the run.
    step: of the run.
    purpose: one of `TIMES`, `NOISE`, `GIVEN`, `OTHER`.
  """
  clip_RS = jax.random.wrap_key_data(keys_RS2.astype(jnp.uint32), impl="threefry2x32")
  fold_RS = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))
  return fold_RS(fold_RS(clip_RS, seed), step * len(PURPOSES) + purpose)


def segment_uniform(
  keys_RS2: jax.Array, seed: int | jax.Array, step: int | jax.Array, purpose: int
) -> jax.Array:
  """One uniform draw in [0, 1) for each segment, `(R, S)` float32."""
  keys_RS = segment_keys(keys_RS2, seed, step, purpose)
  return jax.vmap(jax.vmap(jax.random.uniform))(keys_RS)


def segment_times(
  keys_RS2: jax.Array,
  seed: int | jax.Array,
  step: int | jax.Array,
  tokens_RS: jax.Array,
  diffusion: config.Diffusion,
) -> jax.Array:
  """Draws the training time of each segment, `(R, S)` float32 in (0, 1).

  Logit-normal (Esser et al. 2024, arXiv:2403.03206, equation 19), or uniform where
  `time_std` is 0; then shifted by the segment's size.

  Args:
    keys_RS2: stable keys of the clips, uint32.
    seed: of the run.
    step: of the run.
    tokens_RS: tokens of each segment; 0 where there is none.
    diffusion: the distribution and the shift.
  """
  if diffusion.time_std:
    keys_RS = segment_keys(keys_RS2, seed, step, TIMES)
    normal_RS = jax.vmap(jax.vmap(jax.random.normal))(keys_RS)
    times_RS = jax.nn.sigmoid(diffusion.time_mean + diffusion.time_std * normal_RS)
  else:
    # Centred between float32's steps, so that neither end is ever drawn.
    times_RS = segment_uniform(keys_RS2, seed, step, TIMES) * (1 - 2**-23) + 2**-24
  return shift_times(times_RS, segment_shift(tokens_RS, diffusion))


def segment_shift(tokens_RS: jax.Array, diffusion: config.Diffusion) -> jax.Array:
  """The shift of each segment by its size, `(R, S)` float32; 1 shifts nothing."""
  if not diffusion.shift:
    return jnp.ones(tokens_RS.shape, jnp.float32)
  size_RS = tokens_RS.astype(jnp.float32) / diffusion.shift_tokens
  return jnp.clip(diffusion.shift * jnp.sqrt(size_RS), 1.0, diffusion.max_shift)


def shift_times(times: jax.Array, shift: jax.Array | float) -> jax.Array:
  """Moves times towards noise: `s t / (1 + (s - 1) t)` (arXiv:2403.03206, eq. 23).

  Args:
    times: in [0, 1], of any shape; 0 and 1 stay.
    shift: above 0: a number, or an array that broadcasts with `times`.

  Returns:
    Times in [0, 1], like `times`.
  """
  return shift * times / (1.0 + (shift - 1.0) * times)


def token_times(times_RS: jax.Array, segments_RN: jax.Array) -> jax.Array:
  """The time (or any other value) of each token's segment, `(R, N)`; 0 in padding."""
  times_RN = jnp.take_along_axis(times_RS, jnp.maximum(segments_RN - 1, 0), axis=1)
  return jnp.where(segments_RN > 0, times_RN, 0.0)


def token_indices(segments_RN: jax.Array) -> jax.Array:
  """Index of each token in its segment, from 0, `(R, N)` int32.

  A segment's tokens are contiguous and in order. Padding counts like a segment.
  """
  place_RN = jnp.broadcast_to(
    jnp.arange(segments_RN.shape[1], dtype=jnp.int32)[None], segments_RN.shape
  )
  before_RN = jnp.pad(segments_RN[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  start_RN = jnp.where(segments_RN != before_RN, place_RN, 0)
  return place_RN - jax.lax.cummax(start_RN, axis=1)


def noise(
  keys_RS2: jax.Array,
  segments_RN: jax.Array,
  indices_RN: jax.Array,
  seed: int | jax.Array,
  step: int | jax.Array,
  patch_dim: int,
) -> jax.Array:
  """Standard normal noise of every token, `(R, N, P)` float32; 0 in padding.

  A token's noise is a function of seed, step, its clip's key and its index in the
  clip. Each token is one counter-based draw, so any layout over devices computes its
  own tokens and nothing else.

  Args:
    keys_RS2: stable keys of the clips, uint32.
    segments_RN: segment of each token.
    indices_RN: index of each token in its segment, from `token_indices`.
    seed: of the run.
    step: of the run.
    patch_dim: P.
  """
  keys_RS = segment_keys(keys_RS2, seed, step, NOISE)
  column_RN = jnp.maximum(segments_RN - 1, 0)
  keys_RN = jax.vmap(lambda keys_S, column_N: keys_S[column_N])(keys_RS, column_RN)
  keys_RN = jax.vmap(jax.vmap(jax.random.fold_in))(keys_RN, indices_RN)

  def draw(key):
    return jax.random.normal(key, (patch_dim,), jnp.float32)

  noise_RNP = jax.vmap(jax.vmap(draw))(keys_RN)
  return jnp.where(segments_RN[:, :, None] > 0, noise_RNP, 0.0)
