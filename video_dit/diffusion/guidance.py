"""Guidance: moves away from the network's prediction without the caption."""

import jax
import jax.numpy as jnp

from video_dit.diffusion import process


def guide(
  conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float
) -> jax.Array:
  """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6).

  Here a scale of 1 is the conditional prediction, 0 the unconditional one. It may act
  on predictions of any kind: at a given x_t all are affine in each other.

  Args:
    conditional: prediction with the caption, `(..., P)`.
    unconditional: prediction with the empty caption, like `conditional`.
    scale: a number, or an array whose shape is that of the predictions' first axes.

  Returns:
    `unconditional + scale (conditional - unconditional)`, like `conditional`.
  """
  scale = process.trail(jnp.asarray(scale, conditional.dtype), conditional)
  return unconditional + scale * (conditional - unconditional)


def within(
  scale: jax.Array, times: jax.Array, interval: tuple[float, float]
) -> jax.Array:
  """The scale at noise levels of an interval, and 1 elsewhere.

  At high noise guidance determines content; at low noise it costs variety and clean edges
  (Kynkäänniemi et al., 2024, arXiv:2404.07724).

  Args:
    scale: of guidance, of any shape.
    times: noise levels in [0, 1], like `scale`.
    interval: lowest and highest noise level at which the scale applies.
  """
  lowest, highest = interval
  return jnp.where((times >= lowest) & (times <= highest), scale, 1.0)
