"""The DiT's step on every kind of mesh: the same losses, one compilation each."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data import clips
from video_dit import config as config_lib
from video_dit.checkpoints.store import Position, Store
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import metrics, objectives
from video_dit.trainer.step import Trainer

_STEPS = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """Of a tiny run on random latents."""
  folder = tmp_path_factory.mktemp("data")
  clips.write(folder / "latents", 60)
  return config_lib.Config(
    name="tiny",
    objective="diffusion",
    dit=config_lib.DiT(width=32, depth=2, heads=8, mlp_ratio=2.0, patch=(1, 2, 2)),
    data=config_lib.Data(
      path=str(folder), rows=8, row_length=64, row_segments=12, row_text=48, threads=1
    ),
    optimizer=config_lib.Optimizer(warmup_steps=0, learning_rate=1e-2),
    train=config_lib.Train(compute_dtype="float32", steps=_STEPS),
  )


def _trainer(config, shape) -> Trainer:
  mesh = mesh_lib.make(jax.devices(), shape)
  return Trainer(objectives.from_config(config, mesh), config, mesh)


def _train(trainer: Trainer, state, first: int, last: int, save=None):
  """Steps `first` to `last`; the losses, and the state at the end."""
  batches = trainer.objective.batches(trainer.mesh, first)
  losses = []
  with jax.set_mesh(trainer.mesh), jax.transfer_guard("disallow"):
    for step in range(first, last):
      state, found = trainer.step(state, next(batches))
      losses.append(float(metrics.to_host(found).means["loss"][0]))
      if save and step + 1 == save[1]:
        save[0].save(state, Position(step=step + 1, seed=0, data=""))
  return losses, jax.device_get(state)


@pytest.fixture(scope="module")
def reference(config, tmp_path_factory):
  """First state, losses, last state and a checkpoint of step 2: mesh (2, 2, 1, 2)."""
  trainer = _trainer(config, (2, 2, 1, 2))
  fresh = trainer.init()
  first = jax.device_get(fresh)
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  with Store(folder, keep=1) as store:
    losses, state = _train(trainer, fresh, 0, _STEPS, (store, 2))
  return trainer, first, losses, state, folder


def test_resume_on_the_same_mesh_is_bit_identical(reference):
  trainer, _, losses, state, folder = reference
  with Store(folder) as store:
    found = store.restore(trainer.abstract, 2)
  resumed, end = _train(trainer, found, 2, _STEPS)
  assert resumed == losses[2:]
  jax.tree.map(np.testing.assert_array_equal, end, state)
  assert trainer.step._cache_size() == 1


# `auto` trades tokens for heads over all of the context axis here, in the reference too.
@pytest.mark.parametrize(
  ("shape", "context", "remat"),
  [
    ((8, 1, 1, 1), "auto", "block"),
    ((1, 8, 1, 1), "auto", "block"),
    ((1, 1, 8, 1), "auto", "block"),
    ((1, 1, 1, 8), "auto", "block"),
    ((1, 1, 1, 8), "ring", "attention"),
    ((2, 1, 1, 4), "both", "offload"),
  ],
  ids=str,
)
def test_the_first_five_losses_agree_on_every_mesh(
  config, reference, shape, context, remat
):
  _, first, losses, state, _ = reference
  dit = dataclasses.replace(config.dit, context=context, remat=remat)
  trainer = _trainer(dataclasses.replace(config, dit=dit), shape)
  fresh = jax.device_put(first, trainer.shardings)
  if shape == (1, 8, 1, 1):  # one birth more, to see that it does not depend on the mesh
    fresh = trainer.init()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(fresh), first)
  found, end = _train(trainer, fresh, 0, _STEPS)
  np.testing.assert_allclose(found, losses, rtol=1e-5)
  assert trainer.step._cache_size() == 1
  for a, b in zip(
    jax.tree.leaves(end.params), jax.tree.leaves(state.params), strict=True
  ):
    assert a.shape == b.shape
  kernel = trainer.abstract.params["blocks"]["up"]["kernel"]
  shard = kernel.sharding.shard_shape(kernel.shape)
  split = shape[1] * shape[2] * shape[3]
  assert np.prod(shard) * split == np.prod(kernel.shape)


def test_another_mesh_sees_the_same_clips(config):
  seen = []
  for shape in ((8, 1, 1, 1), (1, 4, 1, 2)):
    mesh = mesh_lib.make(jax.devices(), shape)
    batches = objectives.from_config(config, mesh).batches(mesh, 3)
    seen.append([jax.device_get(next(batches)) for _ in range(3)])
  for a, b in zip(*seen, strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)
  fresh = objectives.from_config(config, mesh).batches(mesh, 0)
  steps = [jax.device_get(next(fresh)) for _ in range(4)]
  np.testing.assert_array_equal(steps[3].keys, seen[0][0].keys)


@pytest.mark.parametrize(
  ("shape", "changes", "message"),
  [
    ((8, 1, 1, 1), {"rows": 4}, r"data\.rows=4 does not divide .* multiple of 8"),
    ((1, 1, 1, 8), {"row_length": 36}, r"row_length=36 does not divide .*context=8"),
    (
      (1, 1, 2, 4),
      {"heads": 4, "context": "all_to_all"},
      "the 2 heads of a device .* do not divide over context=4. Choose",
    ),
    ((8, 1, 1, 1), {"path": ""}, r"data\.path is empty"),
    ((8, 1, 1, 1), {"path": "nowhere"}, "no data set here"),
  ],
)
def test_a_config_that_does_not_fit_is_refused(config, shape, changes, message):
  changes = dict(changes)
  dit = dataclasses.replace(config.dit, heads=changes.pop("heads", config.dit.heads))
  if "context" in changes:
    dit = dataclasses.replace(dit, context=changes.pop("context"))
  wrong = dataclasses.replace(
    config, dit=dit, data=dataclasses.replace(config.data, **changes)
  )
  with pytest.raises(ValueError, match=message):
    _trainer(wrong, shape)
