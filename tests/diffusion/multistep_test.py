"""DPM-Solver++(2M) and UniPC against their papers' equations, solved in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.diffusion import multistep, samplers
from video_dit.diffusion import process as processes

PROCESS = processes.flow()
NOISE = np.random.default_rng(0).normal(size=(2, 3))


def network(x, t, np=np):
  """A velocity that is no straight line."""
  return 0.3 * x * np.cos(5.0 * t) + np.sin(3.0 * t)


def published(times, *, corrector):
  """The states of UniPC with order 2, by arXiv:2302.04867's equations as printed.

  Each step solves `R_p(h) rho = b_p(h) / B(h)` for the differences of the samples that
  earlier times gave, over their distances in the log signal-to-noise ratio.
  """
  times = np.asarray(times, np.float64)
  alpha, sigma = 1.0 - times, times
  with np.errstate(divide="ignore"):
    ratio = np.log(alpha) - np.log(sigma)

  def move(x, i, j, samples, points, solved):
    """From i to j, with x_0 at `points` beside that at i."""
    h = ratio[j] - ratio[i]
    if not points:
      return sigma[j] / sigma[i] * x - alpha[j] * np.expm1(-h) * samples[i]
    r = np.array([(ratio[p] - ratio[i]) / h for p in points])
    if solved:
      power, factor, right = np.expm1(-h) / -h - 1.0, 1.0, []
      for k in range(1, len(points) + 1):
        right.append(power * factor / np.expm1(-h))
        factor *= k + 1
        power = power / -h - 1.0 / factor
      rows = np.stack([r**k for k in range(len(points))])
      weights = np.linalg.solve(rows, np.array(right))
    else:
      weights = np.array([0.5])  # as printed for one difference
    differences = [(samples[p] - samples[i]) / q for p, q in zip(points, r, strict=True)]
    total = sum(w * d for w, d in zip(weights, differences, strict=True))
    first = sigma[j] / sigma[i] * x - alpha[j] * np.expm1(-h) * samples[i]
    return first - alpha[j] * np.expm1(-h) * total

  x, samples, corrected, states = NOISE, [], [], [NOISE]
  for i in range(len(times) - 1):
    samples.append(x - sigma[i] * network(x, times[i]))
    if corrector and i:
      points = [i] if i == 1 else [i - 2, i]
      x = move(corrected[i - 1], i - 1, i, samples, points, solved=i > 1)
    corrected.append(x)
    if i == len(times) - 2:
      x = samples[i]  # sigma is 0
    else:
      x = move(x, i, i + 1, samples, [i - 1] if i else [], solved=False)
    states.append(x)
  return states


def states(sampler, times):
  """What the network saw at each time, and the end."""
  seen = []

  def denoise(x, t):
    jax.debug.callback(lambda x: seen.append(np.array(x)), x, ordered=True)
    return network(x, t, jnp)

  end = samplers.sample(
    denoise,
    jnp.float32(NOISE),
    jnp.float32(times),
    sampler,
    process=PROCESS,
    prediction="velocity",
  )
  jax.effects_barrier()
  return [*seen, end]


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize(
  "times",
  [
    [0.98, 0.0],
    [0.98, 0.5, 0.0],
    [0.999, 0.97, 0.9, 0.7, 0.66, 0.3, 0.1, 0.0],  # large steps of l and small ones
    np.linspace(0.9, 0.0, 61),
  ],
  ids=["one", "two", "uneven", "many"],
)
def test_states_are_the_papers(times, corrector):
  found = states(multistep.UniPC(corrector), times)
  for a, b in zip(found, published(times, corrector=corrector), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


def test_from_pure_noise_the_second_step_has_nothing_to_extrapolate():
  """Its l is minus infinity, the limit of starting ever closer to it."""
  found, near = (
    states(multistep.UniPC(), [start, 0.9, 0.6, 0.3, 0.0]) for start in (1.0, 1.0 - 1e-6)
  )
  assert np.isfinite(found).all()
  np.testing.assert_allclose(found[-1], near[-1], rtol=0, atol=0.02)


def test_weights_of_small_steps_are_those_of_large_ones():
  around = np.float32([0.4999, 0.5001])
  for found in multistep._weights(jnp.asarray(around)):
    assert abs(float(found[1] - found[0])) < 3e-5
  smallest = np.array(multistep._weights(jnp.float32(1e-7)))
  np.testing.assert_allclose(smallest, [1 / 2, 1 / 3], rtol=0, atol=1e-6)
  for found in multistep._weights(jnp.float32(jnp.inf)):
    assert float(found) == 1.0
