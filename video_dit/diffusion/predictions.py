"""Predictions: noise, sample and velocity, as targets and as estimates.

With `x_t = alpha x_0 + sigma noise` and `v = a noise - b x_0` (see `process`), any one
of the three together with x_t gives the two others. From velocity there is no division.
From noise one divides by alpha, from the sample by sigma: at the end where that is 0, x_t
does not determine the answer. The divisor is kept above `FLOOR`, so the result is finite
there, and exact everywhere else.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from video_dit.diffusion import process as processes

Kind = Literal["noise", "sample", "velocity"]
KINDS: tuple[Kind, ...] = ("noise", "sample", "velocity")
FLOOR = 1e-6


def target(
  process: processes.Process,
  kind: Kind,
  x0: jax.Array,
  noise: jax.Array,
  times: jax.Array,
) -> jax.Array:
  """The target of a network that predicts `kind`.

  Args:
    process: of the training.
    kind: of the prediction.
    x0: data, `(..., P)`.
    noise: like `x0`.
    times: its shape is that of `x0`'s first axes.

  Returns:
    Noise, sample or velocity, like `x0`.
  """
  if kind == "noise":
    return noise
  if kind == "sample":
    return x0
  return process.velocity(x0, noise, times)


def to_sample_and_noise(
  process: processes.Process,
  kind: Kind,
  prediction: jax.Array,
  x_t: jax.Array,
  times: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The estimates of x_0 and of the noise that a prediction of `kind` stands for.

  Args:
    process: of x_t.
    kind: of the prediction.
    prediction: like `x_t`.
    x_t: `(..., P)`.
    times: its shape is that of `x_t`'s first axes.

  Returns:
    The sample and the noise, like `x_t`.
  """
  alpha = processes.trail(process.alpha(times), x_t)
  sigma = processes.trail(process.sigma(times), x_t)
  if kind == "noise":
    return (x_t - sigma * prediction) / jnp.maximum(alpha, FLOOR), prediction
  if kind == "sample":
    return prediction, (x_t - alpha * prediction) / jnp.maximum(sigma, FLOOR)
  a, b = (processes.trail(w, x_t) for w in process.velocity_weights(times))
  return a * x_t - sigma * prediction, b * x_t + alpha * prediction
