"""The autoencoder's objective: windows of pixels through encoder and decoder.

    loss = l1 |d| + l2 d^2 + gradient |D d| + kl KL(N(mean, var) || N(0, 1))

with d = decoded - pixels, both in [-1, 1], and D the finite differences in time, rows
and columns. The divergence is summed over a clip's latent and divided by its number of
pixels. With `kl` 0 and no sampling this is a plain autoencoder.

KL and reparametrisation: Kingma and Welling 2013 (arXiv:1312.6114), appendix B. The
gradient term: Mathieu et al. 2015 (arXiv:1511.05440), equation 6.
"""

import math

import jax
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.data.batch import Windows
from video_dit.diffusion import times
from video_dit.models.autoencoder.frozen import to_unit
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.trainer.sums import Sums


def loss(
  model: Autoencoder,
  windows: Windows,
  seed: jax.Array,
  step: jax.Array,
  config: config_lib.Config,
) -> Sums:
  """Totals of the terms over a batch of windows; every window weighs 1.

  Args:
    model: of the step's parameters.
    windows: `(B, F, H, W, 3)` uint8.
    seed, step: decide the latents' noise.
    config: of the run.
  """
  terms = config.reconstruction
  pixels = to_unit(windows.clips)
  dtype, remat = config.train.compute_dtype, terms.remat
  mean, logvar = model.encode(pixels.astype(dtype), remat=remat)
  # From then on the encoder is frozen and the decoder learns to repair.
  mending = step >= mends_from(config)
  if terms.noise:
    mean, logvar = (
      jnp.where(mending, jax.lax.stop_gradient(x), x) for x in (mean, logvar)
    )
  latent = mean
  if terms.sample:
    latent = mean + jnp.exp(0.5 * logvar) * _noise(windows.keys, seed, step, mean)
  if terms.noise:
    disturbance = _disturbance(windows.keys, seed, step, mean)
    latent += jnp.where(mending, terms.noise, 0.0) * disturbance
  decoded = model.decode(latent.astype(dtype), remat=remat)
  measured = measure(decoded, pixels)
  divergence = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
  measured["kl"] = jnp.sum(divergence, (1, 2, 3, 4)) / math.prod(pixels.shape[1:4])
  weights = {"l1": terms.l1, "l2": terms.l2, "gradient": terms.gradient, "kl": terms.kl}
  total_B = sum(
    (weight * measured[name] for name, weight in weights.items()),
    jnp.zeros_like(measured["l1"]),
  )
  return _sums(total_B, measured)


def mends_from(config: config_lib.Config) -> float:
  """The step from which the encoder is frozen; infinite without `noise`."""
  terms = config.reconstruction
  return terms.noise_from * config.train.steps if terms.noise else math.inf


def heldout(
  model: Autoencoder, windows: Windows, level: jax.Array, config: config_lib.Config
) -> Sums:
  """Totals without noise, as the frozen autoencoder would reconstruct the windows."""
  del level  # reconstruction has no noise level
  pixels = to_unit(windows.clips)
  mean, _ = model.encode(pixels.astype(config.train.compute_dtype))
  measured = measure(model.decode(mean.astype(config.train.compute_dtype)), pixels)
  return _sums(measured["l1"], measured)


def measure(decoded_BFHWC: jax.Array, pixels_BFHWC: jax.Array) -> dict[str, jax.Array]:
  """Errors of each clip, `(B,)` float32 each: l1, l2, gradient, psnr in dB."""
  error = decoded_BFHWC.astype(jnp.float32) - pixels_BFHWC
  every = (1, 2, 3, 4)
  l2_B = jnp.mean(jnp.square(error), every)
  slopes = [
    jnp.mean(jnp.abs(jnp.diff(error, axis=axis)), every)
    for axis in (1, 2, 3)
    if error.shape[axis] > 1
  ]
  clipped = jnp.clip(decoded_BFHWC, -1.0, 1.0) - pixels_BFHWC
  # The peak is 2, from -1 to 1; an exact copy counts as 100 dB.
  noise_B = jnp.maximum(jnp.mean(jnp.square(clipped), every) / 4.0, 1e-10)
  return {
    "l1": jnp.mean(jnp.abs(error), every),
    "l2": l2_B,
    "gradient": sum(slopes, jnp.zeros_like(l2_B)),
    "psnr": -10.0 * jnp.log10(noise_B),
  }


def _noise(keys_B2: jax.Array, seed, step, like: jax.Array) -> jax.Array:
  """Standard normal noise, each clip's a function of seed, step and its key."""
  keys_B = times.segment_keys(keys_B2[:, None], seed, step, times.NOISE)[:, 0]
  return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:]))(keys_B)


def _disturbance(keys_B2: jax.Array, seed, step, mean_BFHWC: jax.Array) -> jax.Array:
  """Noise in units of each channel's deviation, of strength 0 to 1 in each clip.

  The deviation is that of all clips that are given, as generated latents err in units of
  all: a plain clip's own is as little as a third of it, and would hardly be disturbed.
  """
  keys_B = times.segment_keys(keys_B2[:, None], seed, step, times.OTHER)[:, 0]
  strength_B = jax.vmap(jax.random.uniform)(keys_B)
  deviation_C = jnp.std(mean_BFHWC, axis=(0, 1, 2, 3))
  normal = jax.vmap(lambda key: jax.random.normal(key, mean_BFHWC.shape[1:]))(keys_B)
  strength = jnp.expand_dims(strength_B, (1, 2, 3, 4))
  return strength * normal * deviation_C[None, None, None, None]


def _sums(total_B: jax.Array, measured: dict[str, jax.Array]) -> Sums:
  weight = jnp.float32(total_B.shape[0])
  return Sums(
    loss=jnp.sum(total_B),
    weight=weight,
    means={name: (jnp.sum(value), weight) for name, value in measured.items()},
    counts={"clips": weight},
  )
