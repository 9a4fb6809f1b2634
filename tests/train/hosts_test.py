"""The commands over two processes, what they save, and a start that compiles nothing."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny
from video_dit.media import decode
from video_dit.train import metrics

_ROOT = pathlib.Path(__file__).parents[2]
_SETTINGS = {
  "data.row_segments": 12,
  "data.balance_rows": 1,
  "train.log_every": 1,
  "train.evaluate_every": 2,
  "train.evaluate_batches": 1,
  "train.sample_prompts": "('a red circle',)",
  "train.sample_every": 0,
}


def _start(command: str, *flags: str, **environment: str) -> subprocess.Popen:
  # Training keeps its programs in the workdir, where it is to find them.
  own = {"JAX_PLATFORMS": "cpu"} if command == "main" else tiny.environment()
  return subprocess.Popen(
    [sys.executable, "-m", f"video_dit.{command}", *flags],
    cwd=_ROOT,
    env=os.environ | own | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _two(command: str, *flags: str) -> list[str]:
  """What the two processes of a run say."""
  together = {"JAX_COORDINATOR_ADDRESS": _address(), "JAX_NUM_PROCESSES": "2"}
  pair = [
    _start(command, *flags, "--mesh=cpu:2,fsdp=2", JAX_PROCESS_ID=str(i), **together)
    for i in range(2)
  ]
  try:
    return [_end(process) for process in pair]
  finally:
    for process in pair:
      process.kill()
      process.communicate()


def _one(command: str, *flags: str) -> str:
  return _end(_start(command, *flags, "--mesh=cpu:4,fsdp=2"))


def _address() -> str:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def _training(run: pathlib.Path, workdir: pathlib.Path, steps: int = 2) -> list[str]:
  """Flags that train on the data set of a run, with its config."""
  flags = [f"--config=video_dit/saved_config.py:{run}", f"--workdir={workdir}"]
  flags += [f"--config.{key}={value}" for key, value in _SETTINGS.items()]
  return [*flags, f"--config.train.steps={steps}"]


def _end(process: subprocess.Popen) -> str:
  said, _ = process.communicate(timeout=600)
  assert process.returncode == 0, said
  return said


def _losses(workdir: pathlib.Path, name: str = "loss") -> list[float]:
  lines = metrics.read(workdir / "metrics.jsonl")
  return [line[name] for line in lines if name in line]


def _heldout(workdir: pathlib.Path) -> list[float]:
  found = _losses(workdir, "heldout/loss")
  assert len(found) == 1
  return found


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """The workdir of a run, whose data set and encoders are there."""
  return tiny.run_once(tmp_path_factory)


_TELL = """
import jax
from video_dit.parallel import hosts
hosts.join(None)
first = jax.process_index() == 0
print([hosts.tell(word if first else "nothing", 60) for word in ("busy", "")])
"""


def test_what_the_first_process_says_all_hear():
  together = {"JAX_COORDINATOR_ADDRESS": _address(), "JAX_NUM_PROCESSES": "2"}
  pair = [
    subprocess.Popen(
      [sys.executable, "-c", _TELL],
      cwd=_ROOT,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_PROCESS_ID": str(i)} | together,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  assert ["['busy', '']" in _end(process) for process in pair] == [True, True]


def _frames(workdir: pathlib.Path) -> np.ndarray:
  """Of the clip that training sampled at its second step."""
  path = workdir / "samples" / "00000002" / "000.mp4"
  return np.stack(list(decode.frames(path, tiny.CONFIG.media))).astype(np.float32)


def test_two_processes_train_sample_and_save_as_one_does(run, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  said = _two("main", *_training(run, two))
  assert "on the mesh data=2, fsdp=2" in said[0]
  assert "step 2/2" in said[0] and "step 2/2" not in said[1]

  assert "s, with compiling" in _one("main", *_training(run, one))
  losses = _losses(one)
  assert len(losses) == 2
  assert _losses(two) == pytest.approx(losses, rel=1e-5)
  assert _heldout(two) == pytest.approx(_heldout(one), rel=1e-5)
  assert np.abs(_frames(two) - _frames(one)).mean() < 0.1  # of 255

  said = _one("main", *_training(run, one, steps=3))
  assert "continuing from step 2" in said and "s, found compiled" in said

  # What two processes saved, one goes on with.
  said = _one("main", *_training(run, two, steps=3))
  assert "continuing from step 2" in said
  losses = _losses(one)
  assert len(losses) == 3
  assert _losses(two) == pytest.approx(losses, rel=1e-5)


def test_two_processes_sample_and_evaluate_as_one_does(run, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  asked = [f"--workdir={run}", "--prompt=a red circle", "--prompt=a blue bar"]
  asked += ["--config.sample.format=gif"]
  said = _two("sample", *asked, f"--output={two}")
  assert "2 clips" in said[0] and "clip" not in said[1]
  assert "2 clips" in _one("sample", *asked, f"--output={one}")
  names = sorted(path.name for path in one.iterdir())
  assert len(names) == 4 and names == sorted(path.name for path in two.iterdir())
  clips = [name for name in names if name.endswith(".gif")]
  assert len(clips) == 2
  for name in clips:
    assert (two / name).read_bytes() == (one / name).read_bytes()

  judged = [f"--workdir={run}", f"--samples={one}", "--config.evaluate.adherence=false"]
  said = _two("evaluate", *judged, f"--output={two}")
  assert "report.html" in said[0] and "report.html" not in said[1]
  _one("evaluate", *judged, f"--output={one}")
  found, wanted = (json.loads((x / "evaluation.json").read_text()) for x in (two, one))
  assert found["heldout_loss"] == pytest.approx(wanted["heldout_loss"], rel=1e-5)
  assert len(wanted["heldout_loss"]) == 2
  assert found["nearest"] == wanted["nearest"]
