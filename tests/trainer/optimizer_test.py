"""The optimiser: rates by step, decay by axes, the ramp of the average."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from video_dit.config import Optimizer
from video_dit.trainer import optimizer


def _rates(config: Optimizer, steps: int) -> np.ndarray:
  rate = jax.vmap(lambda step: optimizer.learning_rate(step, config, steps))
  return np.asarray(rate(jnp.arange(steps)))


def test_warm_up_reaches_the_greatest_rate_and_stays():
  rates = _rates(Optimizer(learning_rate=0.2, warmup_steps=4), 8)
  np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.2, 0.2], 1e-6)
  assert _rates(Optimizer(learning_rate=0.2, warmup_steps=0), 1)[0] == np.float32(0.2)


def test_cosine_ends_at_its_final_fraction():
  config = Optimizer(
    learning_rate=1.0, warmup_steps=10, schedule="cosine", final_fraction=0.1
  )
  rates = _rates(config, 110)
  middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.5))
  np.testing.assert_allclose(rates[[9, 59, 109]], [1.0, middle, 0.1], rtol=1e-5)
  assert (np.diff(rates[9:]) < 0).all()


def test_the_direction_is_adamw_s_and_decays_matrices_alone():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  # A stack of two layers: its biases are matrices to NumPy, but not to the model.
  params = {"kernel": draw(2, 4, 3), "bias": draw(2, 3)}
  axes = {"kernel": 2, "bias": 1}
  config = Optimizer(weight_decay=0.3, clip_norm=0.7, epsilon=1e-6)
  ours = optimizer.direction(config, axes)
  theirs = optax.chain(
    optax.clip_by_global_norm(0.7),
    optax.adamw(
      1.0, 0.9, 0.95, 1e-6, weight_decay=0.3, mask={"kernel": True, "bias": False}
    ),
  )
  state, other = ours.init(params), theirs.init(params)
  for _ in range(3):
    grads = jax.tree.map(lambda x: draw(*x.shape), params)
    updates, state = ours.update(grads, state, params)
    expected, other = theirs.update(grads, other, params)
    for name in params:
      np.testing.assert_allclose(updates[name], -expected[name], rtol=1e-5, atol=1e-6)
  assert int(optimizer.num_updates(state)) == 3


def test_clipping_off_keeps_the_state_s_structure():
  config, params = Optimizer(), {"kernel": jnp.ones((2, 2))}
  off = dataclasses.replace(config, clip_norm=0.0)
  one, two = (
    jax.tree.structure(optimizer.direction(c, {"kernel": 2}).init(params))
    for c in (config, off)
  )
  assert one == two


@pytest.mark.parametrize(
  ("step", "decay"), [(0, 0.1), (8, 0.5), (90, 0.91), (10**6, 0.999)]
)
def test_the_average_follows_closely_at_first(step, decay):
  assert optimizer.ema_decay(jnp.int32(step), 0.999) == pytest.approx(decay, rel=1e-6)
