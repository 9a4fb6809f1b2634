"""Processes: `x_t = alpha(t) x_0 + sigma(t) noise`, t from 0 (data) to 1 (noise).

Two of them, with their velocities:

    flow   alpha = 1 - t, sigma = t             v = noise - x_0
    ddpm   alpha^2 = prod(1 - beta), variance   v = alpha noise - sigma x_0
           preserving: alpha^2 + sigma^2 = 1

Flow: Liu et al. 2022 (arXiv:2209.03003), equation 1; Lipman et al. 2022
(arXiv:2210.02747), equation 23. DDPM: Ho et al. 2020 (arXiv:2006.11239), equation 4;
its cosine betas: Nichol and Dhariwal 2021 (arXiv:2102.09672), equation 17; its
velocity: Salimans and Ho 2022 (arXiv:2202.00512), section 4.

Both velocities are `v = a noise - b x_0` with `alpha a + sigma b = 1`, so that

    x_0 = a x_t - sigma v,    noise = b x_t + alpha v

hold for both without any division.
"""

from collections.abc import Callable
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config

DDPM_STEPS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
  """How noise is mixed into data. All times are float32 in [0, 1], of any shape.

  Attributes:
    alpha: share of the data at a time; falls from 1.
    sigma: share of the noise at a time; rises from 0.
    straight: the velocity is `noise - x_0`, else `alpha noise - sigma x_0`.
  """

  alpha: Callable[[jax.Array], jax.Array]
  sigma: Callable[[jax.Array], jax.Array]
  straight: bool

  def velocity_weights(self, times: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`(a, b)` of `v = a noise - b x_0`, shaped like `times`."""
    if self.straight:
      return jnp.ones_like(times), jnp.ones_like(times)
    return self.alpha(times), self.sigma(times)

  def add_noise(self, x0: jax.Array, noise: jax.Array, times: jax.Array) -> jax.Array:
    """Returns x_t, like `x0`.

    Args:
      x0: data, `(..., P)`.
      noise: standard normal, like `x0`.
      times: its shape is that of `x0`'s first axes (`()`, `(R,)` or `(R, N)`).
    """
    alpha, sigma = self.alpha(times), self.sigma(times)
    return trail(alpha, x0) * x0 + trail(sigma, x0) * noise

  def velocity(self, x0: jax.Array, noise: jax.Array, times: jax.Array) -> jax.Array:
    """Returns the velocity of data and noise, like `x0`; arguments as in `add_noise`."""
    a, b = self.velocity_weights(times)
    return trail(a, x0) * noise - trail(b, x0) * x0


def trail(values: jax.Array, like: jax.Array) -> jax.Array:
  """Gives `values` trailing axes of size 1, up to the rank of `like`."""
  return jnp.expand_dims(values, range(values.ndim, like.ndim))


def flow() -> Process:
  """Rectified flow: a straight line from data to noise."""
  return Process(alpha=lambda t: 1.0 - t, sigma=lambda t: t + 0.0, straight=True)


def ddpm(schedule: Literal["linear", "cosine"] = "linear") -> Process:
  """DDPM's variance-preserving process of 1000 steps.

  Step n (0 to 999, as in DDPM and its descendants) is time `(n + 1) / 1000`; time 0 is
  the data. Between two steps beta is constant, which is the continuous process whose log
  alpha is linear there; at a step alpha and sigma are those of the table.
  """
  return variance_preserving(betas(schedule))


def from_config(diffusion: config.Diffusion) -> Process:
  """The process that a config names."""
  return flow() if diffusion.process == "flow" else ddpm(diffusion.schedule)


def betas(schedule: Literal["linear", "cosine"]) -> np.ndarray:
  """Noise variances of DDPM's steps, `(1000,)` float64, first step first.

  `linear` runs from 1e-4 to 0.02; `cosine` is capped at 0.999.
  """
  if schedule == "linear":
    return np.linspace(1e-4, 0.02, DDPM_STEPS)
  ends = np.linspace(0.0, 1.0, DDPM_STEPS + 1)
  alphas_bar = np.cos((ends + 0.008) / 1.008 * np.pi / 2) ** 2
  return np.minimum(1.0 - alphas_bar[1:] / alphas_bar[:-1], 0.999)


def variance_preserving(variances: np.ndarray) -> Process:
  """The process with these betas; a last beta of 1 (no signal at time 1) is allowed.

  Args:
    variances: `(steps,)` float64 in (0, 1].

  Raises:
    ValueError: a beta lies outside (0, 1].
  """
  if not ((variances > 0).all() and (variances <= 1).all()):
    raise ValueError(
      f"betas from {variances.min()} to {variances.max()}: each must lie in (0, 1]."
    )
  steps = len(variances)
  # Entry k is the state after k steps. Kept as alpha and sigma^2, not as log alpha,
  # so that float32 is exact to its last digit at every step.
  alpha_bar = np.concatenate([[1.0], np.cumprod(1.0 - variances)])
  alphas = np.sqrt(alpha_bar).astype(np.float32)
  squares = (1.0 - alpha_bar).astype(np.float32)
  decay = np.maximum(np.log(np.maximum(1.0 - variances, 1e-30)), -60.0)
  decays = np.concatenate([decay, [0.0]]).astype(np.float32)

  def locate(times):
    # A float32 time is off by a few 1e-5 of a step: so close to a step it is that step.
    position = jnp.clip(times * steps, 0.0, steps)
    nearest = jnp.round(position)
    position = jnp.where(jnp.abs(position - nearest) < 2e-4, nearest, position)
    index = jnp.floor(position).astype(jnp.int32)
    log_ratio = (position - index) * jnp.take(jnp.asarray(decays), index)
    return index, log_ratio

  def alpha(times):
    index, log_ratio = locate(times)
    return jnp.take(jnp.asarray(alphas), index) * jnp.exp(0.5 * log_ratio)

  def sigma(times):
    index, log_ratio = locate(times)
    before = jnp.take(jnp.asarray(alphas), index)
    square = jnp.take(jnp.asarray(squares), index)
    return jnp.sqrt(square - jnp.square(before) * jnp.expm1(log_ratio))

  return Process(alpha=alpha, sigma=sigma, straight=False)
