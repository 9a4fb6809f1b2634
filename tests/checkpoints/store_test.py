"""Checkpoints: whole or absent, on any mesh, in part, and refused by name."""

import dataclasses
import gc
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import pytest

from video_dit.checkpoints.state import TrainState
from video_dit.checkpoints.store import Position, Store
from video_dit.parallel import mesh as mesh_lib

_WIDTH = 16
_OPEN = pathlib.Path("/proc/self/fd")


def _state(seed: int = 0, width: int = _WIDTH) -> TrainState:
  rng = np.random.default_rng(seed)
  params = {
    "block": {0: {"kernel": jnp.asarray(rng.normal(size=(8, width)), jnp.float32)}},
    "bias": jnp.asarray(rng.normal(size=(8,)), jnp.float32),
  }
  ema = jax.tree.map(lambda x: x * 0.5, params)
  opt = optax.adam(1e-3).init(params)
  return TrainState(step=jnp.int32(seed), params=params, ema=ema, opt=opt)


def _abstract(state: TrainState, shape: tuple[int, int, int, int]) -> TrainState:
  """The state's shapes over a mesh, matrices split over fsdp and tensor."""
  mesh = mesh_lib.make(jax.devices(), shape)

  def one(x):
    spec = PartitionSpec("fsdp", "tensor") if x.ndim == 2 else PartitionSpec()
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

  return jax.tree.map(one, jax.eval_shape(lambda: state))


def _place(state: TrainState, shape: tuple[int, int, int, int]) -> TrainState:
  return jax.tree.map(
    lambda x, a: jax.device_put(x, a.sharding), state, _abstract(state, shape)
  )


def _position(step: int) -> Position:
  window = {"means": {"loss": [0.1 + 0.2, 3.0]}, "steps": 3}
  return Position(step=step, seed=7, data="d" * 16, rows=8, window=window)


def _assert_equal(a, b) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A folder of five saves that keeps the newest two."""
  folder = tmp_path_factory.mktemp("run") / "checkpoints"
  with Store(folder, keep=2) as store:
    for step in range(1, 6):
      store.save(_place(_state(step), (1, 4, 2, 1)), _position(step))
  return folder


def test_arrays_that_must_be_fetched_are_saved_under_a_training_loops_guard(tmp_path):
  """As all on an accelerator; on a CPU only those of four bits are not read in place."""
  state = _state()
  state = dataclasses.replace(state, ema={"codes": jnp.arange(8).astype(jnp.int4)})
  with Store(tmp_path / "checkpoints", keep=1) as store:
    with jax.transfer_guard("disallow"):
      with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed device-to-host"):
        np.asarray(state.ema["codes"])
      store.save(state, _position(1))
      store.wait()
    found = store.restore(_abstract(state, (8, 1, 1, 1)))
  _assert_equal(found.ema, state.ema)


def test_a_checkpoint_that_another_host_sees_is_awaited(tmp_path, saved):
  folder = tmp_path / "checkpoints"
  folder.mkdir()
  with Store(folder, keep=2) as store:
    assert store.latest() is None
    shutil.copytree(saved / "5", folder / "5")
    store.await_step(5, 30)
    assert store.latest() == 5
    with pytest.raises(TimeoutError, match="another host sees a checkpoint of step 6"):
      store.await_step(6, 0)


def test_the_newest_are_kept_and_come_back_on_another_mesh(saved):
  with Store(saved) as store:
    assert store.steps() == [4, 5] and store.latest() == 5
    for step in (4, 5):
      target = _abstract(_state(), (2, 2, 1, 2))
      found = store.restore(target, step)
      _assert_equal(jax.device_get(found), jax.device_get(_state(step)))
      same = jax.tree.map(
        lambda x, a: x.sharding.is_equivalent_to(a.sharding, x.ndim), found, target
      )
      assert all(jax.tree.leaves(same))
      assert store.position(step) == _position(step)


@pytest.mark.skipif(not _OPEN.is_dir(), reason="what is open is not told")
def test_saves_leave_nothing_open(tmp_path):
  with Store(tmp_path / "checkpoints", keep=1) as store:
    store.save(_state(0), _position(0))
    store.wait()
    before = len(list(_OPEN.iterdir()))
    for step in range(1, 6):
      store.save(_state(step), _position(step))
    store.wait()
    assert len(list(_OPEN.iterdir())) <= before


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Later(Position):
  """Where a run of a later version stands."""

  more: int = 1


def test_what_a_later_version_noted_is_left_out(tmp_path):
  with Store(tmp_path / "checkpoints", keep=1) as store:
    store.save(_state(), _Later(**dataclasses.asdict(_position(3))))
    store.wait()
    assert store.position() == _position(3)


def test_milestones_stay_beside_the_newest(tmp_path):
  for steps in (range(1, 5), range(5, 8)):  # the second run goes on from the first
    with Store(tmp_path / "checkpoints", keep=2, keep_every=3) as store:
      for step in steps:
        store.save(_state(step), _position(step))
      store.wait()
      found = store.steps()
  assert found == [3, 6, 7]


def test_averaged_weights_come_back_alone(saved, tmp_path):
  folder = shutil.copytree(saved / "5" / "ema", tmp_path / "run" / "5" / "ema")
  for name in ("_CHECKPOINT_METADATA",):
    shutil.copy(saved / "5" / name, folder.parent / name)
  with Store(folder.parent.parent) as store:
    ema = store.restore_ema(_abstract(_state(), (8, 1, 1, 1)).ema)
  _assert_equal(jax.device_get(ema), jax.device_get(_state(5).ema))


def test_another_model_is_refused_by_parameter_and_shapes(saved):
  other = _abstract(_state(width=32), (8, 1, 1, 1))
  other = dataclasses.replace(other, ema={**other.ema, "extra": other.ema["bias"]})
  with Store(saved) as store, pytest.raises(ValueError) as error:
    store.restore(other)
  assert "block/0/kernel: (8, 16) stored, (8, 32) in the model" in str(error.value)
  assert "extra: not stored, (8,) in the model" in str(error.value)


def test_a_save_that_a_kill_cut_short_is_not_found(saved, tmp_path):
  folder = tmp_path / "checkpoints"
  shutil.copytree(saved, folder)
  # What a kill during a save leaves: everything under another name, or nothing yet.
  shutil.copytree(saved / "5", folder / "6.orbax-checkpoint-tmp")
  with Store(folder) as store:
    assert store.latest() == 5
  assert (folder / "6.orbax-checkpoint-tmp").exists()  # a reader clears nothing
  with Store(folder, keep=2) as store:
    assert store.latest() == 5
    store.save(_state(6), _position(6))
    store.wait()
    assert store.steps() == [5, 6]
    _assert_equal(
      jax.device_get(store.restore(_abstract(_state(), (8, 1, 1, 1)))),
      jax.device_get(_state(6)),
    )


def test_nothing_to_read_is_said(saved, tmp_path):
  with pytest.raises(ValueError, match="Train first"):
    Store(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with Store(tmp_path / "empty") as store:
    assert store.latest() is None
    with pytest.raises(ValueError, match="no complete checkpoint"):
      store.restore(_abstract(_state(), (8, 1, 1, 1)))
  with Store(saved) as store, pytest.raises(ValueError, match=r"step 3.*\[4, 5\]"):
    store.position(3)


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  ("name", "damage", "said"),
  [
    ("_CHECKPOINT_METADATA", pathlib.Path.unlink, "_CHECKPOINT_METADATA is missing"),
    ("_CHECKPOINT_METADATA", _cut, "_CHECKPOINT_METADATA is truncated"),
    ("ema/_METADATA", _cut, "ema/_METADATA is truncated"),
    ("ema/manifest.ocdbt", pathlib.Path.unlink, "ema/manifest.ocdbt is missing"),
    ("ema/d", _cut, r"5/ema/d/\w+ \(Requested byte range"),
    ("ema/d", pathlib.Path.unlink, r"5/ema/d/\w+ \(it is missing"),
    ("ema", shutil.rmtree, "the folder ema is missing"),
  ],
)
def test_damage_is_named_with_the_checkpoint_to_go_on_from(
  saved, tmp_path, name, damage, said
):
  folder = shutil.copytree(saved, tmp_path / "checkpoints")
  place = folder / "5" / name
  damage(next(place.iterdir()) if name == "ema/d" else place)
  abstract = _abstract(_state(), (8, 1, 1, 1))
  message = rf"{folder}/5: the checkpoint is damaged: .*{said}.* \[4\]. Move {folder}/5 "
  with Store(folder) as store:
    for read, target in ((store.restore, abstract), (store.restore_ema, abstract.ema)):
      with pytest.raises(ValueError, match=message + ".* resumes from step 4"):
        read(target)
    if name != "ema":  # a tree that is not there is missed when it is read
      with pytest.raises(ValueError, match=message):
        store.position()
    _assert_equal(jax.device_get(store.restore(abstract, 4).ema), _state(4).ema)


# Orbax leaves reads behind that it had not begun: collected here, not in a later test.
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_weights_are_named_when_they_are_read(tmp_path):
  state = _state(1, width=2048)
  with Store(tmp_path / "checkpoints", keep=1) as store:
    store.save(state, _position(1))
  files = (path for path in (tmp_path / "checkpoints/1/ema").rglob("*") if path.is_file())
  _cut(max(files, key=lambda path: path.stat().st_size))
  with (
    Store(tmp_path / "checkpoints") as store,
    pytest.raises(
      ValueError, match=r"1: the checkpoint is damaged: .*No other checkpoint"
    ),
  ):
    store.restore_ema(_abstract(state, (1, 1, 1, 1)).ema)
  gc.collect()


@pytest.mark.parametrize(
  "error", [OSError(116, "Stale file handle"), jax.errors.JaxRuntimeError("UNAVAILABLE")]
)
def test_what_may_pass_is_not_called_damage(saved, monkeypatch, error):
  """A host that is gone or a disk that does not answer: another start is the remedy."""

  def fail(*args):
    raise error

  with Store(saved) as store, pytest.raises(type(error), match=str(error)[-9:]):
    monkeypatch.setattr(store._checkpointer, "load_checkpointables", fail)
    store.restore(_abstract(_state(), (8, 1, 1, 1)))


# In a process of its own: writes that a failed save leaves behind end when they like.
_FULL = """
import resource, signal, sys
from tests.checkpoints import store_test
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with store_test.Store(sys.argv[1], keep=2) as store:
  _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
  store.save(store_test._state(6), store_test._position(6))
  store.wait()
"""


def _said_of_a_full_disk(folder: pathlib.Path) -> str:
  done = subprocess.run(
    [sys.executable, "-c", _FULL, str(folder)],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  said = [line for line in done.stderr.splitlines() if line.startswith("ValueError: ")]
  assert f"{folder}: could not write a checkpoint" in said[-1]
  return said[-1]


def test_a_full_disk_before_the_first_checkpoint_is_said(tmp_path):
  said = _said_of_a_full_disk(tmp_path / "checkpoints")
  assert "No checkpoint is complete yet. Free some space" in said and said.endswith(
    "it starts over."
  )


def test_what_the_disk_does_not_take_is_said_and_the_last_checkpoint_stays(
  saved, tmp_path
):
  folder = tmp_path / "checkpoints"
  shutil.copytree(saved, folder)
  said = _said_of_a_full_disk(folder)
  assert "That of step 5 is complete. Free some space" in said
  assert said.endswith("it resumes from there.")
  with Store(folder, keep=2) as store:
    assert store.latest() == 5
    store.save(_state(6), _position(6))


def test_what_a_kill_left_of_a_save_is_removed_by_the_next_run(tmp_path):
  left = tmp_path / "5.orbax-checkpoint-tmp"
  left.mkdir()
  with Store(tmp_path):  # to read alone
    pass
  assert left.exists()
  with Store(tmp_path, keep=2) as store:
    store.save(_state(6), _position(6))
  assert not left.exists()


def test_a_position_that_lacks_a_part_is_damage(tmp_path):
  with Store(tmp_path, keep=2) as store:
    store.save(_state(5), _position(5))
  path = tmp_path / "5" / "_CHECKPOINT_METADATA"
  whole = json.loads(path.read_text())
  for name in ("step", "seed", "data"):
    custom = {k: v for k, v in whole["custom_metadata"].items() if k != name}
    path.write_text(json.dumps(whole | {"custom_metadata": custom}))
    with (
      Store(tmp_path) as store,
      pytest.raises(ValueError, match=f"does not say the run's {name}"),
    ):
      store.position()
