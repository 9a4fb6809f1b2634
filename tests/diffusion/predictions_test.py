"""Noise, sample and velocity say the same thing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.diffusion import predictions
from video_dit.diffusion import process as processes

PROCESSES = {"flow": processes.flow(), "ddpm": processes.ddpm("linear")}
KEYS = jax.random.split(jax.random.key(0))
X0 = jax.random.normal(KEYS[0], (2, 5, 4))
NOISE = jax.random.normal(KEYS[1], (2, 5, 4))
INSIDE = jnp.float32([[0.05, 0.2, 0.4, 0.5, 0.55], [0.6, 0.65, 0.7, 0.8, 0.9]])


def convert(process, source, wanted, prediction, x_t, times):
  """A prediction of kind `source` as one of kind `wanted`."""
  x0, noise = predictions.to_sample_and_noise(process, source, prediction, x_t, times)
  return predictions.target(process, wanted, x0, noise, times)


@pytest.mark.parametrize("name", PROCESSES)
def test_each_becomes_each_other(name):
  process = PROCESSES[name]

  @jax.jit
  def everything(x0, noise, times):
    x_t = process.add_noise(x0, noise, times)
    out = {}
    for source, wanted in itertools.product(predictions.KINDS, repeat=2):
      truth = predictions.target(process, source, x0, noise, times)
      expected = predictions.target(process, wanted, x0, noise, times)
      got = convert(process, source, wanted, truth, x_t, times)
      back = convert(process, wanted, source, got, x_t, times)
      out[f"{source} to {wanted}"] = (got, expected)
      out[f"{source} to {wanted} and back"] = (back, truth)
    return out

  for way, (got, expected) in everything(X0, NOISE, INSIDE).items():
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5, err_msg=way)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("time", [0.0, 1.0])
def test_the_ends_are_finite_and_exact_from_velocity(name, time):
  process = PROCESSES[name]

  @jax.jit
  def everything(x0, noise, times):
    x_t = process.add_noise(x0, noise, times)
    velocity = process.velocity(x0, noise, times)
    exact = predictions.to_sample_and_noise(process, "velocity", velocity, x_t, times)
    return exact, [
      convert(process, source, wanted, 0.9 * noise, x_t, times)
      for source, wanted in itertools.product(predictions.KINDS, repeat=2)
    ]

  (x0, noise), others = everything(X0, NOISE, jnp.float32(time))
  assert all(np.isfinite(other).all() for other in others)
  np.testing.assert_allclose(x0, X0, rtol=0, atol=1e-6)
  np.testing.assert_allclose(noise, NOISE, rtol=0, atol=1e-6)
