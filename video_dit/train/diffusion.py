"""The DiT's objective: segments at times of their own, some with given frames.

A segment draws its time and its noise from its key, so a clip sees the same ones
whatever row, device or micro-batch it lands in. With chance `given_probability` its
first latent frames are given: clean, at time 0, and without a loss.
"""

import jax
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.data.batch import Batch
from video_dit.diffusion import losses, predictions, process, times
from video_dit.models.dit import flops
from video_dit.models.dit.model import DiT
from video_dit.train.objective import Sums

HELD_OUT_SEED = 20_231_117  # of held-out noise, the same in every run
_QUARTILES = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


def loss(
  model: DiT, batch: Batch, seed: jax.Array, step: jax.Array, config: config_lib.Config
) -> Sums:
  """Totals of the weighted loss over a batch of rows.

  Args:
    model: of the step's parameters.
    batch: packed rows.
    seed, step: decide, with each segment's key, its time, noise and given frames.
    config: of the run.
  """
  times_RS = times.segment_times(batch.keys, seed, step, batch.tokens, config.diffusion)
  given_RN = None
  if config.diffusion.given_probability:
    given_RN = given_tokens(batch, seed, step, config.diffusion.given_probability)
  return _loss_at(model, batch, times_RS, given_RN, seed, step, config)


def heldout(
  model: DiT, batch: Batch, level: jax.Array, config: config_lib.Config
) -> Sums:
  """Totals of the loss with every segment at one time and with fixed noise."""
  times_RS = jnp.broadcast_to(level, batch.tokens.shape)
  return _loss_at(model, batch, times_RS, None, HELD_OUT_SEED, 0, config)


def _loss_at(model, batch: Batch, times_RS, given_RN, seed, step, config) -> Sums:
  run = process.from_config(config.diffusion)
  kind = config.diffusion.prediction
  indices_RN = times.token_indices(batch.segments)
  noise_RNP = times.noise(
    batch.keys, batch.segments, indices_RN, seed, step, batch.patches.shape[-1]
  )
  times_RN = times.token_times(times_RS, batch.segments)
  if given_RN is not None:
    times_RN = jnp.where(given_RN, 0.0, times_RN)
  x_RNP = run.add_noise(batch.patches, noise_RNP, times_RN)
  prediction_RNP = model(
    x_RNP,
    times_RS if given_RN is None else times_RN,
    batch.segments,
    batch.positions,
    batch.text,
    batch.text_segments,
    dtype=jnp.dtype(config.train.compute_dtype),
    num_segments=None if given_RN is None else batch.tokens.shape[1],
  )
  total, losses_RS = losses.weighted_loss(
    prediction_RNP,
    predictions.target(run, kind, batch.patches, noise_RNP, times_RN),
    batch.weights,
    batch.segments,
    batch.tokens,
    counted_RN=None if given_RN is None else ~given_RN,
    total_weight=jnp.float32(1.0),
  )
  return Sums(
    loss=total,
    weight=jnp.sum(batch.weights),
    means=_by_quartile(losses_RS, times_RS, batch.weights) | _fill(batch),
    counts=_counts(batch, config.dit),
  )


def given_tokens(
  batch: Batch, seed: jax.Array, step: jax.Array, probability: float
) -> jax.Array:
  """Which tokens are given, `(R, N)` bool.

  A segment of several latent frames gives, by a coin, its first one or more: one in
  half of the cases, else any number that leaves one to generate.
  """
  at_RN = jnp.maximum(batch.segments - 1, 0)
  ids_S = jnp.arange(1, batch.tokens.shape[1] + 1, dtype=batch.segments.dtype)
  member_RNS = batch.segments[:, :, None] == ids_S[None, None]
  frames_RN1 = batch.frames[:, :, None]
  first_RS = jnp.min(frames_RN1, 1, where=member_RNS, initial=2**30)
  last_RS = jnp.max(frames_RN1, 1, where=member_RNS, initial=-1)
  span_RS = jnp.maximum(last_RS - first_RS, 0).astype(jnp.float32)

  draw_RS = times.segment_uniform(batch.keys, seed, step, times.GIVEN)
  # One draw serves coin and number: where the coin holds, u is uniform again.
  u_RS = draw_RS / probability
  many_RS = 1.0 + jnp.floor(jnp.maximum(2.0 * u_RS - 1.0, 0.0) * span_RS)
  num_RS = jnp.where(u_RS < 1.0, jnp.minimum(many_RS, span_RS), 0.0)
  limit_RS = first_RS + num_RS.astype(jnp.int32)
  limit_RN = jnp.take_along_axis(limit_RS, at_RN, axis=1)
  return (batch.segments > 0) & (batch.frames < limit_RN)


def _by_quartile(losses_RS, times_RS, weights_RS):
  """The loss of the segments whose time lies in each quarter of [0, 1]."""
  means = {}
  for low, high in _QUARTILES:
    inside_RS = (times_RS >= low) & ((times_RS < high) | (high == 1.0))
    weight_RS = jnp.where(inside_RS, weights_RS, 0.0)
    name = f"loss/{low:.2f}-{high:.2f}"
    means[name] = (jnp.sum(weight_RS * losses_RS), jnp.sum(weight_RS))
  return means


def _fill(batch: Batch):
  """Share of the rows' tokens that is data."""
  tokens = jnp.sum(batch.tokens.astype(jnp.float32))
  return {"fill": (tokens, jnp.float32(batch.segments.size))}


def _counts(batch: Batch, dit: config_lib.DiT) -> dict[str, jax.Array]:
  tokens_RS = batch.tokens.astype(jnp.float32)
  text_RS = losses.sum_by_segment(
    jnp.ones(batch.text_segments.shape, jnp.float32),
    batch.text_segments,
    batch.tokens.shape[1],
  )
  work = flops.train_flops(
    dit,
    patch_dim=batch.patches.shape[-1],
    text_width=batch.text.shape[-1],
    tokens_S=tokens_RS,
    text_tokens_S=text_RS,
  )
  return {
    "tokens": jnp.sum(tokens_RS),
    "clips": jnp.sum((batch.tokens > 0).astype(jnp.float32)),
    "model_flops": work,
  }
