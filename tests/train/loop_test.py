"""The loop on the least model: resume, kill, stop, finish, refuse."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.train import line
from video_dit import config as config_lib
from video_dit import lock
from video_dit.checkpoints.store import Store
from video_dit.data import pieces as pieces_lib
from video_dit.data import steps as steps_lib
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import loop, metrics
from video_dit.train import workdir as workdir_lib
from video_dit.trainer.step import Trainer

_RATES = ("_per_second", "mfu")


def _mesh(shape=(4, 2, 1, 1)):
  return mesh_lib.make(jax.devices(), shape)


def _state(workdir: pathlib.Path, config=None):
  """The newest state of a run."""
  trainer = Trainer(line.objective(), config or line.config(), _mesh())
  with Store(workdir / "checkpoints") as store:
    return jax.device_get(store.restore(trainer.abstract))


def _lines(workdir: pathlib.Path) -> list[dict]:
  """What was measured, without what depends on the clock."""
  return [
    {k: v for k, v in line.items() if not k.endswith(_RATES)}
    for line in metrics.read(workdir / "metrics.jsonl")
  ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of 7 steps that nothing interrupted."""
  workdir = tmp_path_factory.mktemp("whole")
  shown = []

  def show(mesh, ema, step, folder):
    shown.append(step)
    (folder / "a.png").write_bytes(np.asarray(ema["bias"]).tobytes())
    return [("<a caption>", folder / "a.png")]

  def finish(mesh, ema, workdir):
    (workdir / "exported").write_bytes(np.asarray(ema["bias"]).tobytes())
    return "exported"

  objective = line.objective(show=show, finish=finish)
  assert loop.train(objective, line.config(sample_every=4), _mesh(), workdir)
  assert shown == [4, 7]
  return workdir


def test_a_run_leaves_its_files(whole):
  assert json.loads((whole / "config.json").read_text())["name"] == "line"
  lines = _lines(whole)
  assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 7]
  assert [line["step"] for line in lines if "heldout/loss" in line] == [5, 7]
  assert lines[0]["loss"] > lines[-2]["loss"]
  page = (whole / "report.html").read_text()
  for text in ("training loss", "held-out loss", "&lt;a caption&gt;", "points"):
    assert text in page
  assert 'src="samples/00000007/a.png"' in page
  with Store(whole / "checkpoints") as store:
    assert store.steps() == [3, 6, 7]


def test_samples_export_and_held_out_loss_are_of_the_averaged_weights(whole):
  objective, config, mesh = line.objective(), line.config(), _mesh()
  state = _state(whole)
  assert not np.array_equal(state.ema["bias"], state.params["bias"])
  for made in (whole / "exported", whole / "samples/00000007/a.png"):
    assert made.read_bytes() == state.ema["bias"].tobytes()
  model = Trainer(objective, config, mesh).model(state.ema)
  batches = objective.heldout_batches(mesh)
  sums = [
    objective.heldout(model, jax.device_get(next(batches)), 0.0)
    for _ in range(config.train.evaluate_batches)
  ]
  expected = sum(float(x.loss) for x in sums) / sum(float(x.weight) for x in sums)
  assert _lines(whole)[-1]["heldout/loss"] == pytest.approx(expected, rel=1e-5)


def test_a_finished_run_does_nothing(whole, capsys):
  before = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  assert loop.train(line.objective(), line.config(sample_every=4), _mesh(), whole)
  assert "nothing left to train" in capsys.readouterr().out
  after = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
  changed = {path.name for path in before if before[path] != after.get(path)}
  assert changed <= {"lock"}


def test_the_config_of_a_finished_run_stays_that_of_its_weights(whole):
  before = (whole / "config.json").read_bytes()
  other = dataclasses.replace(line.config(), sample=config_lib.Sample(steps=3))
  assert loop.train(line.objective(), other, _mesh(), whole)
  assert (whole / "config.json").read_bytes() == before


def test_the_config_is_written_once_the_checkpoint_is_read(whole, tmp_path):
  workdir = shutil.copytree(whole, tmp_path / "run")
  shutil.rmtree(workdir / "checkpoints" / "7" / "rest")
  before = (workdir / "config.json").read_bytes()
  with pytest.raises(ValueError, match="the checkpoint is damaged"):
    loop.train(line.objective(), line.config(steps=9), _mesh(), workdir)
  assert (workdir / "config.json").read_bytes() == before


def test_a_run_that_saved_nothing_holds_nobody_to_its_model(tmp_path):
  workdir_lib.write(tmp_path, line.config(), None)
  config = line.config(steps=1)
  other = dataclasses.replace(config, dit=dataclasses.replace(config.dit, width=576))
  assert loop.train(line.objective(), other, _mesh(), tmp_path)
  assert json.loads((tmp_path / "config.json").read_text())["dit"]["width"] == 576


def test_a_torn_marker_of_the_end_counts_as_none(tmp_path):
  for torn in ("", '{"st', "7", '{"step": null}'):
    (tmp_path / "finished.json").write_text(torn)
    assert loop.train(line.objective(), line.config(steps=1), _mesh(), tmp_path)
    assert json.loads((tmp_path / "finished.json").read_text()) == {"step": 1}


def test_n_and_restore_and_n_steps_are_2n(whole, tmp_path, capsys):
  # The first part ends between two lines of the log and between two periods.
  assert loop.train(line.objective(), line.config(steps=3), _mesh(), tmp_path)
  assert loop.train(line.objective(), line.config(), _mesh(), tmp_path)
  assert "config.train.steps was 3" in capsys.readouterr().out
  jax.tree.map(np.testing.assert_array_equal, _state(tmp_path), _state(whole))
  assert _lines(tmp_path)[-4:] == _lines(whole)[-4:]


def test_a_restart_knows_the_epochs_that_are_over(tmp_path):
  one = np.ones(40, np.int64)
  data = config_lib.Data(rows=4, row_length=4, row_segments=4)
  pieces = pieces_lib.cut(one, one, one, one, data=data, patch=(1, 1, 1))
  first, restarted = (steps_lib.Steps(pieces, data, seed=0) for _ in range(2))
  first.rows_for_step(7)
  objective = line.objective(steps=first)
  assert loop.train(objective, line.config(steps=3), _mesh(), tmp_path)
  objective = line.objective(steps=restarted)
  assert loop.train(objective, line.config(steps=4), _mesh(), tmp_path)
  assert restarted.known(4) == first.known(3)  # Rows 12 and 16 are of epoch 1.
  assert (first.known(3)["epoch"], first.known(3)["rows_before"]) == (1, 10)


def test_another_mesh_goes_on_with_the_same_numbers(whole, tmp_path):
  assert loop.train(line.objective(), line.config(steps=3), _mesh(), tmp_path)
  assert loop.train(line.objective(), line.config(), _mesh((1, 2, 4, 1)), tmp_path)
  for a, b in zip(_lines(tmp_path)[-4:], _lines(whole)[-4:], strict=True):
    assert a == pytest.approx(b, rel=1e-5)


def _with_rows(rows: int, **changes) -> config_lib.Config:
  return dataclasses.replace(line.config(**changes), data=config_lib.Data(rows=rows))


@pytest.mark.parametrize(
  ("rows", "accumulate", "said"),
  [
    (16, 1, "at row 48, where 24 were seen, so 24 rows are skipped"),
    (4, 1, "at row 12, where 24 were seen, so 12 rows repeat"),
    (4, 2, ""),
  ],
)
def test_steps_of_more_or_fewer_rows_say_what_is_left_out(
  rows, accumulate, said, tmp_path, capsys
):
  assert loop.train(line.objective(), _with_rows(8, steps=3), _mesh(), tmp_path)
  config = _with_rows(rows, steps=4, accumulate=accumulate)
  assert loop.train(line.objective(), config, _mesh(), tmp_path)
  found = capsys.readouterr().out
  assert said in found and ("rows and has" in found) == bool(said)


def test_a_checkpoint_of_an_older_version_says_no_rows(tmp_path, capsys):
  assert loop.train(line.objective(), _with_rows(8, steps=3), _mesh(), tmp_path)
  path = tmp_path / "checkpoints" / "3" / "_CHECKPOINT_METADATA"
  metadata = json.loads(path.read_text())
  del metadata["custom_metadata"]["rows"]
  path.write_text(json.dumps(metadata))
  assert loop.train(line.objective(), _with_rows(16, steps=4), _mesh(), tmp_path)
  assert "rows and has" not in capsys.readouterr().out


def test_another_model_in_the_workdir_is_refused_by_key(whole):
  config = line.config()
  other = dataclasses.replace(config, dit=dataclasses.replace(config.dit, width=576))
  with pytest.raises(ValueError, match=r"dit\.width: 1152 then, 576 now"):
    loop.train(line.objective(), other, _mesh(), whole)
  other = dataclasses.replace(config, diffusion=config_lib.Diffusion(prediction="noise"))
  with pytest.raises(ValueError, match=r"prediction: 'velocity' then, 'noise' now"):
    loop.train(line.objective(), other, _mesh(), whole)
  # Nothing was touched.
  assert json.loads((whole / "config.json").read_text())["dit"]["width"] == 1152


def test_a_second_run_in_the_workdir_is_refused_and_changes_nothing(whole):
  before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
  with (
    lock.held(whole, flag="--workdir", wait_seconds=0),
    pytest.raises(lock.Busy, match=rf"{whole}: process {os.getpid()} on .* is using"),
  ):
    loop.train(line.objective(), line.config(steps=9), _mesh(), whole, wait_seconds=0)
  after = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
  assert {**after, whole / "lock": b""} == {**before, whole / "lock": b""}


def test_a_skipped_step_is_named(tmp_path, capsys):
  config = line.config(steps=3, log_every=1, evaluate_every=0)
  assert loop.train(line.objective(nan_at=[1]), config, _mesh(), tmp_path)
  assert "step 2: the gradient or update is not finite" in capsys.readouterr().out
  lines = _lines(tmp_path)
  assert {"step": 2, "skipped": 1} in lines
  assert lines[-2]["skipped_steps"] == 1


def test_a_run_that_does_not_recover_ends_before_it_has_no_good_checkpoint(tmp_path):
  config = line.config(steps=40, log_every=1, keep=3)
  with pytest.raises(ValueError, match=r"steps 5 to 14: none had a finite gradient .*"):
    loop.train(line.objective(nan_at=range(4, 40)), config, _mesh(), tmp_path)
  with Store(tmp_path / "checkpoints") as store:
    assert store.steps() == [3]
  assert sum(x.get("skipped", 0) for x in _lines(tmp_path)) == 10
  # What is mended goes on from there.
  assert loop.train(line.objective(), line.config(steps=4), _mesh(), tmp_path)


def test_a_checkpoint_comes_after_the_step_that_is_skipped(tmp_path):
  assert loop.train(line.objective(nan_at=[2]), line.config(), _mesh(), tmp_path)
  with Store(tmp_path / "checkpoints") as store:
    assert store.steps() == [4, 6, 7]


def test_a_short_run_of_nothing_but_skipped_steps_is_no_success(tmp_path):
  config = line.config(steps=2)
  with pytest.raises(ValueError, match="steps 1 to 2: none had a finite gradient"):
    loop.train(line.objective(nan_at=range(2)), config, _mesh(), tmp_path)
  assert not (tmp_path / "finished.json").exists()


def test_periods_of_0_steps_never_come(tmp_path):
  periods = {"log_every": 0, "checkpoint_every": 0, "evaluate_every": 0}
  config = line.config(steps=3, sample_every=0, **periods)
  config = config_lib.parse(config_lib.to_dict(config))
  assert loop.train(line.objective(heldout_batches=None), config, _mesh(), tmp_path)
  assert [found["step"] for found in _lines(tmp_path)] == [3]


def _start(workdir: pathlib.Path, steps: int, seconds: float) -> subprocess.Popen:
  command = ["-W", "error", "-m", "tests.train.line", str(workdir), str(steps)]
  return subprocess.Popen(
    [sys.executable, *command, str(seconds)],
    cwd=pathlib.Path(__file__).parents[2],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _wait_for_step(workdir: pathlib.Path, step: int, run: subprocess.Popen) -> None:
  path = workdir / "metrics.jsonl"
  for _ in range(2000):
    if path.is_file() and any(x["step"] >= step for x in metrics.read(path)):
      return
    assert run.poll() is None, run.stdout.read()
    time.sleep(0.05)
  raise AssertionError("the run never got there")


def test_stopped_then_killed_then_finished_is_bit_identical(tmp_path):
  """SIGTERM saves and exits 0; kill -9 at any moment costs only the steps since."""
  steps = 24
  rng = np.random.default_rng()
  first, second = int(rng.integers(5, 9)), int(rng.integers(11, 19))
  broken, straight = tmp_path / "broken", tmp_path / "straight"
  broken.mkdir()
  (broken / "finished.json").write_text('{"step": 0}')  # with fewer steps, it was

  run = _start(broken, steps, 0.1)
  _wait_for_step(broken, first, run)
  run.send_signal(signal.SIGTERM)
  said, _ = run.communicate()
  assert run.returncode == 0, said
  assert "stopped by SIGTERM at step" in said and "to be continued" in said
  assert not (broken / "finished.json").exists()
  with Store(broken / "checkpoints") as store:
    assert first <= store.latest() < steps

  run = _start(broken, steps, 0.1)
  _wait_for_step(broken, second, run)
  time.sleep(float(rng.uniform(0, 0.3)))
  run.kill()
  run.communicate()
  assert run.returncode == -signal.SIGKILL

  config = line.config(steps=steps, log_every=1, checkpoint_every=4)
  for workdir in (broken, straight):
    assert loop.train(line.objective(), config, _mesh(), workdir)
  states = [_state(workdir, config) for workdir in (broken, straight)]
  jax.tree.map(np.testing.assert_array_equal, *states)
  lines = [[x for x in _lines(w) if "loss" in x] for w in (broken, straight)]
  assert lines[0] == lines[1], (first, second)
  assert [x["step"] for x in lines[0]] == list(range(1, steps + 1))
