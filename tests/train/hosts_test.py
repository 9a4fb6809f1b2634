"""The command over two processes, what they save, and a start that compiles nothing."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests.data import clips
from video_dit.train import metrics

_ROOT = pathlib.Path(__file__).parents[2]
_SETTINGS = {
  "dit.width": 32,
  "dit.depth": 1,
  "dit.heads": 2,
  "data.rows": 8,
  "data.balance_rows": 1,
  "data.row_length": 64,
  "data.row_segments": 12,
  "data.row_text": 48,
  "train.log_every": 1,
  "train.evaluate_every": 0,
  "train.evaluate_batches": 1,
  "train.sample_prompts": "()",
}


def _start(data, workdir, mesh: str, steps: int = 2, **environment: str):
  command = [sys.executable, "-m", "video_dit.main", "--config=configs/demo.py"]
  command += [f"--config.{key}={value}" for key, value in _SETTINGS.items()]
  command += [f"--config.data.path={data}", f"--workdir={workdir}", f"--mesh={mesh}"]
  command += [f"--config.train.steps={steps}"]
  return subprocess.Popen(
    command,
    cwd=_ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _end(process: subprocess.Popen) -> str:
  said, _ = process.communicate(timeout=600)
  assert process.returncode == 0, said
  return said


def _losses(workdir) -> list[float]:
  lines = metrics.read(workdir / "metrics.jsonl")
  return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
  """A set of random latents."""
  folder = tmp_path_factory.mktemp("data")
  clips.write(folder / "latents", 60)
  return folder


_TELL = """
import jax
from video_dit.parallel import hosts
hosts.join(None)
first = jax.process_index() == 0
print([hosts.tell(word if first else "nothing", 60) for word in ("busy", "")])
"""


def test_what_the_first_process_says_all_hear():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
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


def test_two_processes_train_and_save_as_one_does(data, tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
  pair = [
    _start(data, tmp_path / "two", "cpu:2,fsdp=2", JAX_PROCESS_ID=str(i), **together)
    for i in range(2)
  ]
  try:
    said = [_end(process) for process in pair]
  finally:
    for process in pair:
      process.kill()
      process.communicate()
  assert "on the mesh data=2, fsdp=2" in said[0]
  assert "step 2/2" in said[0] and "step 2/2" not in said[1]

  one = tmp_path / "one"
  said = _end(_start(data, one, "cpu:4,fsdp=2"))
  assert "s, with compiling" in said
  losses = _losses(one)
  assert len(losses) == 2
  assert _losses(tmp_path / "two") == pytest.approx(losses, rel=1e-5)

  said = _end(_start(data, one, "cpu:4,fsdp=2", steps=3))
  assert "continuing from step 2" in said and "s, found compiled" in said

  # What two processes saved, one goes on with.
  said = _end(_start(data, tmp_path / "two", "cpu:4,fsdp=2", steps=3))
  assert "continuing from step 2" in said
  losses = _losses(one)
  assert len(losses) == 3
  assert _losses(tmp_path / "two") == pytest.approx(losses, rel=1e-5)
