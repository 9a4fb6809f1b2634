"""The step on the least model: layout, donation, accumulation, skipping."""

import dataclasses
import functools
import itertools
import re

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from tests.train import line
from video_dit import config as config_lib
from video_dit.models.dit.model import DiT
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel import partition
from video_dit.train import metrics
from video_dit.trainer.step import Trainer, micro_batches


def _run(shape=(4, 2, 1, 1), steps=4, config=None, **changes):
  """Losses and states of a few steps, and the trainer."""
  mesh = mesh_lib.make(jax.devices(), shape)
  objective = line.objective(**changes)
  trainer = Trainer(objective, config or line.config(), mesh)
  state, seen = trainer.init(), []
  batches = objective.batches(mesh, 0)
  with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
    for _ in range(steps):
      state, found = trainer.step(state, next(batches))
      seen.append((metrics.to_host(found), jax.device_get(state)))
  return trainer, seen


def test_shards_are_born_apart_and_the_state_is_donated():
  mesh = mesh_lib.make(jax.devices(), (1, 4, 2, 1))
  objective = line.objective()
  trainer = Trainer(objective, line.config(), mesh)
  state = trainer.init()
  for tree in (state.params, state.ema, state.opt[1].mu, state.opt[1].nu):
    assert tree["kernel"].addressable_shards[0].data.shape == (2, 4)
  batch = next(objective.batches(mesh, 0))
  with jax.set_mesh(mesh):
    new, _ = trainer.step(state, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    trainer.step(new, batch)
  assert trainer.step._cache_size() == 1
  assert trainer.num_params() == 72


def test_micro_batches_add_up_to_the_batch():
  whole = _run()[1]
  config = line.config()
  config = dataclasses.replace(
    config, train=dataclasses.replace(config.train, accumulate=2)
  )
  parts = _run(config=config)[1]
  for (a, left), (b, right) in zip(whole, parts, strict=True):
    for name in a.means:
      np.testing.assert_allclose(a.means[name][0], b.means[name][0], rtol=1e-5)
    np.testing.assert_allclose(
      left.params["kernel"], right.params["kernel"], rtol=1e-4, atol=1e-6
    )
    assert a.counts["tokens"] == b.counts["tokens"] == line.ROWS


def test_a_micro_batch_takes_neighbours_of_each_device_and_moves_none():
  mesh = mesh_lib.make(jax.devices(), (2, 2, 1, 2))
  layout = partition.tokens_sharding(mesh)
  rows = jax.device_put(np.arange(2 * 24).reshape(24, 2), layout)
  cut = jax.jit(
    functools.partial(micro_batches, parts=3, mesh=mesh),
    out_shardings=NamedSharding(mesh, PartitionSpec(None, *layout.spec)),
  )
  # Four devices of six rows each, which take two neighbours at a time.
  expected = np.arange(24).reshape(4, 3, 2).swapaxes(0, 1).reshape(3, 8)
  np.testing.assert_array_equal(cut(rows)[..., 0], 2 * expected)
  text = cut.lower(rows).compile().as_text()
  assert not re.search("all-to-all|all-gather|permute|all-reduce", text)


def test_a_clip_counts_the_same_in_a_step_of_many_and_of_few():
  (own, _), (fixed, _) = _run(steps=1)[1][0], _run(steps=1, weight=20.0)[1][0]
  weight = float(own.means["loss/all"][1])
  norms = [float(found.means["grad_norm"][0]) for found in (own, fixed)]
  assert norms[1] == pytest.approx(norms[0] * weight / 20.0, rel=1e-5)
  assert float(own.means["loss"][0]) == pytest.approx(float(fixed.means["loss"][0]))


def test_the_average_trails_by_the_ramp():
  _, seen = _run()
  decay = 0.9999
  for (_, old), (_, new) in itertools.pairwise(seen):
    d = min(decay, (1 + float(old.step)) / (10 + float(old.step)))
    expected = d * old.ema["kernel"] + (1 - d) * new.params["kernel"]
    np.testing.assert_allclose(new.ema["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
  _, seen = _run(nan_at=[1])
  assert [int(m.skipped) for m, _ in seen] == [0, 1, 0, 0]
  assert [int(m.num_skipped) for m, _ in seen] == [0, 1, 1, 1]
  before, after, later = seen[0][1], seen[1][1], seen[2][1]
  for name in ("params", "ema", "opt"):
    old, new = getattr(before, name), getattr(after, name)
    jax.tree.map(np.testing.assert_array_equal, old, new)
  assert [int(state.step) for _, state in seen] == [1, 2, 3, 4]
  assert not np.array_equal(after.params["kernel"], later.params["kernel"])


def test_an_update_that_is_not_finite_changes_nothing_either():
  config = line.config()
  settings = dataclasses.replace(config.optimizer, learning_rate=float("inf"))
  config = dataclasses.replace(config, optimizer=settings)
  (first, state), (second, _) = _run(steps=2, config=config)[1]
  assert np.isfinite(first.means["grad_norm"][0]) and np.isfinite(second.means["loss"][0])
  assert first.skipped and second.num_skipped == 2
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_a_model_with_more_than_parameters_is_refused():
  class Counting(line.Line):
    def __init__(self, rngs: nnx.Rngs):
      super().__init__(rngs)
      self.calls = nnx.Variable(jnp.zeros(()))

  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  with pytest.raises(ValueError, match=r"parameters only.*calls"):
    Trainer(line.objective(build=Counting), line.config(), mesh)


def test_the_seed_decides_the_first_weights_and_the_noise():
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  kernels, losses, start = [], [], None
  for seed in (0, 1):
    config = dataclasses.replace(line.config(), seed=seed)
    trainer = Trainer(line.objective(), config, mesh)
    fresh = jax.device_get(trainer.init())
    start = start or fresh  # one step from the same weights differs by the noise alone
    with jax.set_mesh(mesh):
      state = jax.device_put(start, trainer.shardings)
      _, seen = trainer.step(state, next(trainer.objective.batches(mesh, 0)))
    kernels.append(fresh.params["kernel"])
    losses.append(float(seen.means["loss"][0]))
  assert not np.array_equal(*kernels) and losses[0] != losses[1]


def test_the_rate_of_a_step_is_that_of_a_schedule_over_the_whole_run():
  config = line.config()
  schedule = {"warmup_steps": 0, "schedule": "cosine", "final_fraction": 0.0}
  optimizer = dataclasses.replace(config.optimizer, learning_rate=0.1, **schedule)
  config = dataclasses.replace(config, optimizer=optimizer)
  # A step that is skipped has had its rate.
  _, seen = _run(steps=3, config=config, nan_at=[0])
  assert [int(m.skipped) for m, _ in seen] == [1, 0, 0]
  expected = [0.05 * (1 + np.cos(np.pi * step / 7)) for step in (1, 2, 3)]  # of 7 steps
  np.testing.assert_allclose([m.learning_rate for m, _ in seen], expected, rtol=1e-5)


def test_of_the_transformer_matrices_alone_decay_stacked_in_layers_or_not():
  dit = config_lib.DiT(width=32, depth=2, heads=2, mlp_ratio=2.0)
  config = line.config()
  settings = dataclasses.replace(config.optimizer, weight_decay=0.5)
  trainer = Trainer(
    line.objective(build=lambda rngs: DiT(dit, 6, 5, rngs=rngs)),
    dataclasses.replace(config, optimizer=settings),
    mesh_lib.make(jax.devices()[:1], (1, 1, 1, 1)),
  )

  @jax.jit
  def decay(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return trainer.direction.update(zeros, trainer.direction.init(params), params)[0]

  ones = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), trainer.abstract.params)
  for path, found in jax.tree.leaves_with_path(decay(ones)):
    expected = 0.5 if path[-1].key == "kernel" else 0.0
    np.testing.assert_array_equal(found, expected, err_msg=jax.tree_util.keystr(path))
