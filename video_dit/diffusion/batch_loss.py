"""The loss of a batch of rows: minimised in training, measured on held-out clips.

    x = alpha(t) x_0 + sigma(t) noise,   l_s as in `losses`, of prediction(x, t)

A segment's noise comes from its key, so a clip sees the same one whatever row or device
it lands in.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from video_dit import config
from video_dit.data.batch import Batch
from video_dit.diffusion import losses, predictions, process, times

HELD_OUT_SEED = 20_231_117  # of held-out noise, the same in every run


class Predict(Protocol):
  """The network: noisy patches, times, segments, positions, text and its segments."""

  def __call__(self, *inputs: jax.Array, num_segments: int | None = None) -> jax.Array:
    """Predicts.

    Args:
      *inputs: as `DiT` takes them.
      num_segments: segments of a row, where times are per token.
    """


def at_times(
  predict: Predict,
  batch: Batch,
  times_RS: jax.Array,
  given_RN: jax.Array | None,
  seed: jax.Array | int,
  step: jax.Array | int,
  settings: config.Diffusion,
) -> tuple[jax.Array, jax.Array]:
  """The loss with every segment at a time of its own.

  Args:
    predict: the network with its parameters.
    batch: packed rows.
    times_RS: of the segments.
    given_RN: tokens that are clean, at time 0 and without a loss; None for none.
    seed, step: decide, with each segment's key, its noise.
    settings: process and prediction.

  Returns:
    As `losses.weighted_sum`.
  """
  run = process.from_config(settings)
  patches_RNP = batch.patches.astype(jnp.float32)
  indices_RN = times.token_indices(batch.segments)
  noise_RNP = times.noise(
    batch.keys, batch.segments, indices_RN, seed, step, batch.patches.shape[-1]
  )
  times_RN = times.token_times(times_RS, batch.segments)
  if given_RN is not None:
    times_RN = jnp.where(given_RN, 0.0, times_RN)
  x_RNP = run.add_noise(patches_RNP, noise_RNP, times_RN)
  prediction_RNP = predict(
    x_RNP,
    times_RS if given_RN is None else times_RN,
    batch.segments,
    batch.positions,
    batch.text.astype(jnp.float32),
    batch.text_segments,
    num_segments=None if given_RN is None else batch.tokens.shape[1],
  )
  target_RNP = predictions.target(
    run, settings.prediction, patches_RNP, noise_RNP, times_RN
  )
  return losses.weighted_sum(
    prediction_RNP,
    target_RNP,
    batch.weights,
    batch.segments,
    batch.tokens,
    counted_RN=None if given_RN is None else ~given_RN,
  )


def held_out(
  predict: Predict, batch: Batch, level: jax.Array, settings: config.Diffusion
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The loss with every segment at one time, unshifted, and with fixed noise.

  Args:
    predict: the network with its parameters.
    batch: packed rows.
    level: the time, a float32 scalar.
    settings: process and prediction.

  Returns:
    As `at_times`, and the segments' times `(R, S)`.
  """
  times_RS = jnp.broadcast_to(level, batch.tokens.shape)
  total, losses_RS = at_times(predict, batch, times_RS, None, HELD_OUT_SEED, 0, settings)
  return total, losses_RS, times_RS
