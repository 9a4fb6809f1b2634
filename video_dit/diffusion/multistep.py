"""Samplers that learn from earlier steps: DPM-Solver++(2M) and UniPC.

With half the log signal-to-noise ratio `l = log(alpha / sigma)`, every process obeys

    x_then = (sigma_then / sigma_now) x_now
             + sigma_then * integral of exp(l) x_0(l) dl, from l_now to l_then

and a constant x_0 gives DDIM's step, `alpha_then x_0 + sigma_then noise` with the noise
that x_now and x_0 leave. These samplers take such a step with an x_0 that is
extrapolated, or interpolated, from what the network said at the times before: second
order for one evaluation a step.

Lu et al. 2022 (arXiv:2211.01095, algorithm 2); Zhao et al. 2023 (arXiv:2302.04867) with
data prediction, order 2 and B_2(h).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from video_dit.diffusion import predictions
from video_dit.diffusion import process as processes

# Below this step of l, the corrector's weights are taken from their series.
_SMALL = 0.5


class Past(NamedTuple):
  """What the next step needs of the last ones.

  Attributes:
    x: the state before the last step.
    data: the network's x_0 there.
    older: its x_0 one step earlier.
    times: per token, of `x`.
    older_times: of `older`.
  """

  x: jax.Array
  data: jax.Array
  older: jax.Array
  times: jax.Array
  older_times: jax.Array


@dataclasses.dataclass(frozen=True)
class UniPC:
  """UniPC of order 2; without its corrector it is DPM-Solver++(2M).

  The first step and the last are of first order: before the first nothing is known, and
  at the end l is infinite.

  Attributes:
    corrector: repeat the step that led here with the x_0 found here, before the next.
  """

  corrector: bool = True

  def start(self, x: jax.Array, times: jax.Array) -> Past:
    """An empty past, shaped like what it will be; `times` are those of the first step."""
    return Past(x, x, x, times, times)

  def step(
    self, estimate, x, now, then, process, past: Past, index: jax.Array, last: jax.Array
  ) -> tuple[jax.Array, Past]:
    """One step.

    Args:
      estimate: `(x, moment) -> (x_0, noise)`; called once.
      x: `(..., P)`.
      now: moment of `x`.
      then: moment to go to.
      process: of `x`.
      past: of the steps before.
      index: of this step, from 0.
      last: bool, no step comes after this one.

    Returns:
      x at `then`, and the past of the next step.
    """
    data, _ = estimate(x, now)
    if self.corrector:
      better = _interpolate(past, data, now.tokens, process, index)
      corrected = _go(process, past.x, better, past.times, now.tokens)
      x = jnp.where(index > 0, corrected, x)
    ahead = _extrapolate(past, data, now.tokens, then.tokens, process)
    towards = jnp.where((index > 0) & ~last, ahead, data)
    moved = _go(process, x, towards, now.tokens, then.tokens)
    return moved, Past(x, data, past.data, now.tokens, past.times)


def _extrapolate(past: Past, data, now, then, process) -> jax.Array:
  """x_0 halfway to the next time, on the line through the last two."""
  step = _log_ratio(process, then) - _log_ratio(process, now)
  slope = _share(step, _log_ratio(process, now) - _log_ratio(process, past.times))
  return data + processes.trail(0.5 * slope, data) * (data - past.data)


def _interpolate(past: Past, data, now, process, index) -> jax.Array:
  """x_0 of the last step, from that at its end, at its start and one step earlier."""
  before = _log_ratio(process, past.times)
  step = _log_ratio(process, now) - before
  slope = _share(step, before - _log_ratio(process, past.older_times))
  first, second = _weights(step)
  # The solution of the two equations of order 2; at the second step, of order 1.
  shared = (first - second) * slope / (1.0 + slope)
  at_end = jnp.where(index > 1, first - shared, 0.5)
  at_start = jnp.where(index > 1, shared * slope, 0.0)
  at_end, at_start = (processes.trail(w, data) for w in (at_end, at_start))
  return past.data + at_end * (data - past.data) + at_start * (past.data - past.older)


def _go(process, x, data, now, then) -> jax.Array:
  """The step of DDIM from x with this x_0."""
  alpha, sigma = (processes.trail(f(now), x) for f in (process.alpha, process.sigma))
  noise = (x - alpha * data) / jnp.maximum(sigma, predictions.FLOOR)
  return process.add_noise(data, noise, then)


def _log_ratio(process, times) -> jax.Array:
  """l; minus infinity where there is no data, and finite at the data."""
  return jnp.log(process.alpha(times)) - jnp.log(
    jnp.maximum(process.sigma(times), predictions.FLOOR)
  )


def _share(step, before) -> jax.Array:
  """`step / before`; 0 where either is no step, as at given tokens, which stay at 0."""
  moves = (step > 0) & (before > 0)
  return jnp.where(moves, step, 0.0) / jnp.where(moves, before, 1.0)


def _weights(step) -> tuple[jax.Array, jax.Array]:
  """Right sides of the corrector's equations: 1/2 and 1/3 for no step, 1 for infinite."""
  h = jnp.maximum(step, _SMALL)
  part = -1.0 / jnp.expm1(-h)  # 1 / (1 - exp(-h))
  first = part - 1.0 / h
  second = part - 2.0 * first / h
  h = jnp.where(step < _SMALL, step, 0.0)  # Bernoulli numbers; off by less than 3e-8
  near = h / 12 - h**3 / 720 + h**5 / 30240
  third = 1 / 3 + near + h**2 / 360 - h**4 / 15120
  small = step < _SMALL
  return jnp.where(small, 1 / 2 + near, first), jnp.where(small, third, second)
