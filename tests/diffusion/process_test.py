"""Processes keep their equations at every time, ends included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config
from video_dit.diffusion import process as processes

PROCESSES = {
  "flow": processes.flow(),
  "linear": processes.ddpm("linear"),
  "cosine": processes.ddpm("cosine"),
}
TIMES = np.linspace(0.0, 1.0, 4001, dtype=np.float32)


def coefficients(process, times=TIMES):
  return map(np.asarray, jax.jit(lambda t: (process.alpha(t), process.sigma(t)))(times))


@pytest.mark.parametrize("name", PROCESSES)
def test_starts_at_data_and_falls_to_noise(name):
  process = PROCESSES[name]
  alpha, sigma = coefficients(process)
  assert alpha[0] == 1 and sigma[0] == 0
  assert alpha[-1] < 7e-3 and sigma[-1] > 0.9999
  assert (np.diff(alpha) < 0).all()
  assert (np.diff(sigma) >= 0).all()


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddpm_keeps_the_variance(name):
  process = PROCESSES[name]
  alpha, sigma = coefficients(process)
  total = alpha**2 + sigma**2
  np.testing.assert_allclose(total, 1.0, rtol=0, atol=3e-7)


def test_flow_keeps_the_sum():
  process = PROCESSES["flow"]
  total = sum(coefficients(process))
  np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-7)


def _betas(name):
  """Of 1000 steps, as the papers give them."""
  if name == "linear":  # Ho et al., section 4
    return np.linspace(1e-4, 0.02, 1000)
  # Nichol and Dhariwal, equation 17.
  angles = (np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2
  alpha_bar = np.cos(angles) ** 2
  return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_betas_are_those_of_the_papers(name):
  np.testing.assert_allclose(processes.betas(name), _betas(name), rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ddpm_is_the_table_at_every_step(name):
  alpha_bar = np.cumprod(1 - _betas(name))
  steps = np.arange(1, 1001, dtype=np.float32) / 1000
  alpha, sigma = coefficients(PROCESSES[name], steps)
  np.testing.assert_allclose(alpha, np.sqrt(alpha_bar), rtol=1e-6)
  np.testing.assert_allclose(sigma, np.sqrt(1 - alpha_bar), rtol=1e-6)


def test_between_steps_log_alpha_is_linear():
  process = PROCESSES["linear"]
  alpha, _ = coefficients(process, np.float32([0.4, 0.40025, 0.4005, 0.401]))
  steps = np.diff(np.log(alpha))
  np.testing.assert_allclose(steps / steps.sum(), [0.25, 0.25, 0.5], atol=1e-3)


def test_no_signal_at_the_last_step_is_finite():
  process = processes.variance_preserving(np.array([0.1, 0.5, 1.0]))
  alpha, sigma = coefficients(process)
  assert np.isfinite(alpha).all() and np.isfinite(sigma).all()
  assert alpha[-1] == 0 and sigma[-1] == 1


def test_betas_outside_their_range_are_refused():
  with pytest.raises(ValueError, match="each must lie in"):
    processes.variance_preserving(np.array([0.1, 1.5]))


def test_flow_velocity_is_the_slope_of_the_path():
  process = PROCESSES["flow"]
  x0, noise = jnp.float32([1.0, -2.0]), jnp.float32([0.5, 3.0])
  _, slope = jax.jvp(
    lambda t: process.add_noise(x0, noise, t), (jnp.float32(0.3),), (jnp.float32(1),)
  )
  velocity = process.velocity(x0, noise, jnp.float32(0.3))
  np.testing.assert_allclose(slope, velocity, rtol=1e-6)


def test_times_may_be_for_rows_or_for_tokens():
  process = PROCESSES["cosine"]
  x0, noise = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 2.0)
  add_noise = jax.jit(process.add_noise)
  rows = add_noise(x0, noise, np.float32([0.2, 0.7]))
  tokens = add_noise(x0, noise, np.float32([[0.2] * 3, [0.7] * 3]))
  np.testing.assert_array_equal(rows, tokens)
  assert rows.shape == (2, 3, 4) and (rows[0] != rows[1]).all()


def test_a_config_names_its_process():
  assert processes.from_config(config.Diffusion()).straight
  ddpm = processes.from_config(config.Diffusion(process="ddpm", schedule="cosine"))
  assert not ddpm.straight
  for got, expected in zip(
    coefficients(ddpm), coefficients(PROCESSES["cosine"]), strict=True
  ):
    np.testing.assert_array_equal(got, expected)
