"""The optimiser: rates by step, decay by axes, the ramp of the average."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import line
from video_dit.checkpoints.store import Position, Store
from video_dit.config import Optimizer, parse, to_dict
from video_dit.parallel import mesh as mesh_lib
from video_dit.trainer import optimizer
from video_dit.trainer.step import Trainer


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


def _trainer(dtype: str) -> Trainer:
  config = line.config()
  settings = dataclasses.replace(config.optimizer, moments_dtype=dtype)
  mesh = mesh_lib.make(jax.devices(), (2, 2, 2, 1))
  return Trainer(line.objective(), dataclasses.replace(config, optimizer=settings), mesh)


def _steps(trainer: Trainer, state, first: int, last: int):
  batches = trainer.objective.batches(trainer.mesh, first)
  with jax.set_mesh(trainer.mesh):
    for _ in range(first, last):
      state, _ = trainer.step(state, next(batches))
  return state


def _moments(state) -> list[jax.Array]:
  adam = next(x for x in state.opt if hasattr(x, "mu"))
  return jax.tree.leaves((adam.mu, adam.nu))


def test_moments_in_bfloat16_resume_bit_for_bit_and_change_little(tmp_path):
  trainer, exact = _trainer("bfloat16"), _trainer("float32")
  assert {x.dtype for x in _moments(trainer.abstract)} == {jnp.dtype("bfloat16")}
  with Store(tmp_path / "run", keep=2) as store:
    state = _steps(trainer, trainer.init(), 0, 3)
    store.save(state, Position(step=3, seed=0, data=""))
    end = jax.device_get(_steps(trainer, state, 3, 6))
    store.wait()
    again = _steps(trainer, store.restore(trainer.abstract), 3, 6)
    jax.tree.map(np.testing.assert_array_equal, end, jax.device_get(again))
    # A run may change its mind: what is stored becomes what is wanted.
    other = store.restore(exact.abstract)
  assert {x.dtype for x in _moments(other)} == {jnp.dtype("float32")}
  whole = jax.device_get(_steps(exact, exact.init(), 0, 6))
  fresh = jax.device_get(exact.init())
  for name in ("kernel", "bias"):
    moved = np.linalg.norm(whole.params[name] - fresh.params[name])
    assert np.linalg.norm(end.params[name] - whole.params[name]) < 0.01 * moved


def test_moments_in_bfloat16_are_rounded_once_a_step():
  config = Optimizer(moments_dtype="bfloat16", clip_norm=0.0, weight_decay=0.0)
  rng = np.random.default_rng(0)
  params = {"kernel": np.zeros((40, 40), np.float32)}
  direction = optimizer.direction(config, {"kernel": 2})
  state, update = direction.init(params), jax.jit(direction.update)
  mean = square = np.zeros((40, 40), np.float32)
  for step in (1, 2, 3):
    grad = rng.normal(size=mean.shape).astype(np.float32)
    updates, state = update({"kernel": grad}, state, params)
    mean = config.beta1 * mean + (1 - config.beta1) * grad
    square = config.beta2 * square + (1 - config.beta2) * grad**2
    root = np.sqrt(square / (1 - config.beta2**step)) + config.epsilon
    expected = mean / (1 - config.beta1**step) / root
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-4, atol=1e-6)
    # What the next step begins with.
    mean, square = (x.astype(jnp.bfloat16).astype(np.float32) for x in (mean, square))


def test_moments_in_bfloat16_need_a_second_moment_that_rounding_lets_move():
  config = dataclasses.replace(
    line.config(), optimizer=Optimizer(moments_dtype="bfloat16", beta2=0.999)
  )
  with pytest.raises(ValueError, match=r"beta2=0\.999: must be at most 0\.99 .* float32"):
    parse(to_dict(config))
