"""The DiT's objective: each segment at its own time, some with given frames.

A segment draws its time and its noise from its key, so a clip sees the same ones
whatever row, device or micro-batch it lands in. With chance `given_probability` its
first latent frames are given: clean, at time 0, and without a loss.
"""

import functools

import jax
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.data.batch import Batch, members
from video_dit.diffusion import batch_loss, losses, times
from video_dit.models.dit import flops
from video_dit.models.dit.build import Transformer
from video_dit.trainer.sums import Sums

_QUARTILES = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))


def loss(
  model: Transformer,
  batch: Batch,
  seed: jax.Array,
  step: jax.Array,
  config: config_lib.Config,
) -> Sums:
  """Totals of the weighted loss over a batch of rows.

  Args:
    model: of the step's parameters.
    batch: packed rows.
    seed, step: decide, with each segment's key, its time, noise and given frames.
    config: of the run.
  """
  settings = config.diffusion
  times_RS = times.segment_times(batch.keys, seed, step, batch.tokens, settings)
  given_RN = None
  if settings.given_probability:
    given_RN = given_tokens(batch, seed, step, settings.given_probability)
  total, losses_RS = batch_loss.at_times(
    _predict(model, config), batch, times_RS, given_RN, seed, step, settings
  )
  return _sums(total, losses_RS, times_RS, batch, config)


def heldout(
  model: Transformer, batch: Batch, level: jax.Array, config: config_lib.Config
) -> Sums:
  """Totals of the loss with every segment at one time and with fixed noise."""
  measured = batch_loss.held_out(_predict(model, config), batch, level, config.diffusion)
  return _sums(*measured, batch, config)


def _predict(model: Transformer, config: config_lib.Config) -> batch_loss.Predict:
  return functools.partial(model, dtype=jnp.dtype(config.train.compute_dtype))


def _sums(total, losses_RS, times_RS, batch: Batch, config: config_lib.Config) -> Sums:
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

  In a segment of several latent frames, with chance `probability`, the first one or more
  are given: one in half of the cases, else any number that leaves one to generate.
  """
  at_RN = jnp.maximum(batch.segments - 1, 0)
  member_RNS = members(batch.segments, batch.tokens.shape[1])
  frames_RN1 = batch.frames[:, :, None]
  first_RS = jnp.min(frames_RN1, 1, where=member_RNS, initial=2**30)
  last_RS = jnp.max(frames_RN1, 1, where=member_RNS, initial=-1)
  span_RS = jnp.maximum(last_RS - first_RS, 0).astype(jnp.float32)

  draw_RS = times.segment_uniform(batch.keys, seed, step, times.GIVEN)
  # One draw decides chance and number: below the chance, u is uniform again.
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
