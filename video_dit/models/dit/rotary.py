"""Rotary positions over time, height and width (RoFormer, Su et al., 2021).

The head is cut into three parts, one an axis; each part's halves are rotated as pairs.
Positions are real numbers, so that clips of any size and frame rate share one scale.
"""

import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit.parallel import precision
from video_dit.parallel.local import on_gpu


def pairs(dit: config_lib.DiT) -> tuple[int, int, int]:
  """Rotated pairs of a head given to time, height and width."""
  half = dit.width // dit.heads // 2
  rows = round(dit.rope_fractions[1] * half)
  columns = min(round(dit.rope_fractions[2] * half), half - rows)  # both may round up
  return half - rows - columns, rows, columns


def rotation(
  positions_RN3: jax.Array, dit: config_lib.DiT
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines `(R, N, K / 2)` float32 of every token's angles."""
  angles = []
  for axis, count in enumerate(pairs(dit)):
    frequencies = dit.rope_theta ** -(np.arange(count) / max(count, 1))
    angles.append(
      positions_RN3[..., axis, None] * frequencies.astype(np.float32)[None, None]
    )
  angle_RNK = jnp.concatenate(angles, axis=-1)
  return jnp.cos(angle_RNK), jnp.sin(angle_RNK)


def rotate(x_RNAK: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
  """Rotates the pairs (first half, second half) of each head by `rotation`'s angles.

  Halves are exchanged by a product with a permutation, which is exact: cut apart they
  would fill half of a TPU's lanes. On a GPU, whose memory has none, they are cut apart.

  Args:
    x_RNAK: queries or keys.
    cosine, sine: `(R, N, K / 2)`.

  Returns:
    `(R, N, A, K)` in the dtype of `x_RNAK`.
  """
  if on_gpu():
    first, second = jnp.split(x_RNAK.astype(jnp.float32), 2, axis=-1)
    cosine, sine = cosine[:, :, None], sine[:, :, None]
    halves = first * cosine - second * sine, second * cosine + first * sine
    return jnp.concatenate(halves, axis=-1).astype(x_RNAK.dtype)
  size = x_RNAK.shape[-1]
  exchange = np.roll(np.eye(size, dtype=np.float32), size // 2, axis=1)
  exchanged = jnp.einsum(
    "rnak,kj->rnaj",
    x_RNAK,
    jnp.asarray(exchange, x_RNAK.dtype),
    precision=precision.of(x_RNAK),
    preferred_element_type=jnp.float32,
  )
  cosine = jnp.concatenate([cosine, cosine], axis=-1)[:, :, None]
  sine = jnp.concatenate([-sine, sine], axis=-1)[:, :, None]
  turned = x_RNAK.astype(jnp.float32) * cosine + exchanged * sine
  return turned.astype(x_RNAK.dtype)
