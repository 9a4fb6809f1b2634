"""Samplers: from noise to data by steps in time, on any process.

Divided by `alpha + sigma`, every process is the straight flow: with
`y = x / (alpha + sigma)` and `s = sigma / (alpha + sigma)`,

    y = (1 - s) x_0 + s noise,    dy/ds = noise - x_0

and both stay bounded at both ends. `euler` and `heun` are the first- and second-order
methods for this equation; on the flow process they are the usual ones. An Euler step here
is DDIM's step without noise (Song et al. 2021, arXiv:2010.02502, equation 12), for any
process; with noise, `ddim` is another sampler. Those of `multistep` use earlier steps,
too.

A sampler is a function `step(estimate, x, now, then, process, fresh)`, or has a past;
`sample` scans it over the times, so that any number of steps is compiled once.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config
from video_dit.diffusion import multistep, predictions
from video_dit.diffusion import process as processes
from video_dit.diffusion import times as times_lib

# The data's share where sampling by noise starts, of a process that ends with less than
# the second (DDPM's linear schedule ends with 0.0063, in small steps).
_START_ALPHA, _END_ALPHA = 0.02, 0.005


class Moment(NamedTuple):
  """One time of a schedule: as passed to the network, and per token."""

  network: jax.Array
  tokens: jax.Array


Estimate = Callable[[jax.Array, Moment], tuple[jax.Array, jax.Array]]
Fresh = Callable[[], jax.Array]
Step = Callable[
  [Estimate, jax.Array, Moment, Moment, processes.Process, Fresh | None], jax.Array
]


def euler(estimate, x, now, then, process, fresh=None) -> jax.Array:
  """First order; one evaluation a step."""
  del fresh
  x0, noise = estimate(x, now)
  return process.add_noise(x0, noise, then.tokens)


def heun(estimate, x, now, then, process, fresh=None) -> jax.Array:
  """Second order; two evaluations a step, one in the last.

  The slope is the mean of the slopes at both ends. A step that ends in the data
  is Euler's, as in Karras et al. 2022 (arXiv:2206.00364, algorithm 1).
  """
  del fresh
  x0, noise = estimate(x, now)
  guess = process.add_noise(x0, noise, then.tokens)

  def correct() -> jax.Array:
    x0_then, noise_then = estimate(guess, then)
    slope = 0.5 * (noise - x0 + noise_then - x0_then)
    s_now, scale_now = _straighten(process, now.tokens)
    s_then, scale_then = _straighten(process, then.tokens)
    y_now = x / processes.trail(scale_now, x)
    y_then = y_now + processes.trail(s_then - s_now, x) * slope
    corrected = processes.trail(scale_then, x) * y_then
    return jnp.where(processes.trail(then.tokens, x) > 0, corrected, guess)

  return jax.lax.cond(jnp.any(then.tokens > 0), correct, lambda: guess)


@dataclasses.dataclass(frozen=True)
class DDIM:
  """DDIM (arXiv:2010.02502, equations 12 and 16).

  Attributes:
    eta: fresh noise of each step, as a share of the posterior's deviation: 0 is
      deterministic, 1 is DDPM's ancestral sampling.
  """

  eta: float = 0.0

  def __call__(self, estimate, x, now, then, process, fresh=None) -> jax.Array:
    """One step; with `eta`, draws `fresh()`."""
    x0, noise = estimate(x, now)
    if not self.eta:
      return process.add_noise(x0, noise, then.tokens)  # what `euler` does
    if fresh is None:
      raise ValueError(f"DDIM with eta={self.eta} draws noise: pass `fresh` to sample.")
    alpha_now, sigma_now = process.alpha(now.tokens), process.sigma(now.tokens)
    alpha, sigma = process.alpha(then.tokens), process.sigma(then.tokens)
    # Of q(x_then | x_now, x_0), for any alpha and sigma.
    kept = alpha_now * sigma / jnp.maximum(alpha * sigma_now, predictions.FLOOR)
    deviation = self.eta * sigma * jnp.sqrt(jnp.maximum(1.0 - jnp.square(kept), 0.0))
    rest = jnp.sqrt(jnp.maximum(jnp.square(sigma) - jnp.square(deviation), 0.0))
    alpha, deviation, rest = (processes.trail(w, x) for w in (alpha, deviation, rest))
    return alpha * x0 + rest * noise + deviation * fresh()


def from_config(sample: config.Sample) -> Step | multistep.UniPC:
  """The sampler that a config names."""
  named: dict[str, Step | multistep.UniPC] = {
    "euler": euler,
    "heun": heun,
    "ddim": DDIM(sample.eta),
    "dpmpp_2m": multistep.UniPC(corrector=False),
    "unipc": multistep.UniPC(),
  }
  return named[sample.sampler]


def start_time(prediction: predictions.Kind, process: processes.Process) -> float:
  """The time to start from: 1, or where the data's share is 0.02 if noise is predicted.

  The sample is `(x_t - sigma noise) / alpha`, so a first step multiplies the network's
  error by the ratio of its two alphas: without bound from 0, and from 0.001 twenty times
  if 50 steps are even. Starting at 0.02 instead loses 2 % of the data's mean.
  """
  if prediction != "noise":
    return 1.0
  times = np.linspace(1.0, 0.0, 10_001, dtype=np.float32)
  with jax.ensure_compile_time_eval():
    alphas = np.asarray(process.alpha(jnp.asarray(times)))
  if alphas[0] >= _END_ALPHA:
    return 1.0
  return float(times[np.argmax(alphas >= _START_ALPHA)])


def schedule_times(
  steps: int, *, shift: jax.Array | float = 1.0, start: float = 1.0
) -> jax.Array:
  """Times from `start` down to 0, shifted; evenly spaced before the shift.

  Args:
    steps: number of steps.
    shift: a number, or one for each segment `(R, S)`.
    start: the first time.

  Returns:
    `(steps + 1,)` or `(steps + 1, R, S)` float32.

  Raises:
    ValueError: fewer than one step.
  """
  if steps < 1:
    raise ValueError(f"sample.steps={steps}: at least 1 step is needed.")
  shift = jnp.asarray(shift, jnp.float32)
  first = start / (shift - (shift - 1.0) * start)  # is shifted to `start`
  # By NumPy: XLA multiplies by 1 / steps, and may end at 6e-8.
  share = jnp.asarray(1.0 - np.arange(steps + 1) / steps, jnp.float32)
  even = jax.vmap(jnp.multiply, in_axes=(0, None))(share, first)
  return jax.vmap(times_lib.shift_times, in_axes=(0, None))(even, shift)


def sample(
  denoise: Callable[[jax.Array, jax.Array], jax.Array],
  noise: jax.Array,
  times: jax.Array,
  sampler: Step | multistep.UniPC,
  *,
  process: processes.Process,
  prediction: predictions.Kind,
  segments_RN: jax.Array | None = None,
  given: jax.Array | None = None,
  given_RN: jax.Array | None = None,
  fresh: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Samples data from noise; one compilation for all steps.

  Args:
    denoise: `(x, t) -> prediction` like x. Gets x in float32, and t like `times` without
      its first axis; where tokens are given, t is `(R, N)` and 0 at those.
    noise: x at the first time, `(..., P)` float32.
    times: descending, `(steps + 1, ...)`; further axes are none, the first axes of
      `noise`, or `(R, S)` together with `segments_RN`.
    sampler: `euler`, `heun`, `DDIM()`, or any function like them; or `UniPC()`.
    process: that the network was trained on.
    prediction: what `denoise` returns.
    segments_RN: segment of each token, where `times` is per segment.
    given: clean values, like `noise`, of the tokens that stay fixed.
    given_RN: bool, which tokens those are.
    fresh: `step index -> ` standard normal like `noise`; for samplers that draw.

  Returns:
    Data like `noise`.

  Raises:
    ValueError: only one of `given` and `given_RN` was passed.
  """
  if (given is None) != (given_RN is None):
    raise ValueError("`given` and `given_RN` go together: pass both, or neither.")

  def moment(time) -> Moment:
    tokens = time if segments_RN is None else times_lib.token_times(time, segments_RN)
    if given_RN is None:
      return Moment(time, tokens)
    tokens = processes.trail(tokens, given_RN)
    tokens = jnp.where(given_RN, 0.0, jnp.broadcast_to(tokens, given_RN.shape))
    return Moment(tokens, tokens)

  def keep(x):
    if given is None or given_RN is None:
      return x
    return jnp.where(given_RN[..., None], given, x)

  def estimate(x, at: Moment):
    x = keep(x)  # in Heun's guess too
    out = denoise(x, at.network).astype(jnp.float32)
    return predictions.to_sample_and_noise(process, prediction, out, x, at.tokens)

  def body(state, step):
    x, past = state
    now, then, index = moment(step[0]), moment(step[1]), step[2]
    if isinstance(sampler, multistep.UniPC):
      last = index == len(times) - 2
      x, past = sampler.step(estimate, x, now, then, process, past, index, last)
    else:
      draw = None if fresh is None else lambda: fresh(index)
      x = sampler(estimate, x, now, then, process, draw)
    return (keep(x), past), None

  start, past = keep(noise.astype(jnp.float32)), None
  if isinstance(sampler, multistep.UniPC):
    past = sampler.start(start, moment(times[0]).tokens)
  indices = jnp.arange(len(times) - 1, dtype=jnp.int32)
  (end, _), _ = jax.lax.scan(body, (start, past), (times[:-1], times[1:], indices))
  return end


def _straighten(process: processes.Process, times: jax.Array):
  """The straight flow's time `s`, and the scale `alpha + sigma` of x over y."""
  alpha, sigma = process.alpha(times), process.sigma(times)
  return sigma / (alpha + sigma), alpha + sigma
