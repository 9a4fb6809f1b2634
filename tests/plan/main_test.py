"""The command, from its flags to its text and its JSON."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import tiny

_CONFIG = pathlib.Path(__file__).with_name("tiny_config.py")


def _plan(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "video_dit.plan", f"--config={_CONFIG}", *arguments],
    capture_output=True,
    text=True,
    env=os.environ | tiny.environment(),
  )


def test_all_programs_are_planned_and_written(tmp_path):
  path = tmp_path / "plan.json"
  done = _plan("--topology=cpu:2", "--mesh=fsdp=2", "--price=3", f"--json={path}")
  assert done.returncode == 0, done.stderr[-2000:]
  figures = json.loads(path.read_text())
  assert figures["step_seconds"] > 0 and 0 < figures["mfu"] < 10
  assert figures["sampler"]["clips_per_second"] > 0
  assert figures["encoder"]["clips_per_second"] > 0
  for word in (
    "memory in all",
    "MFU",
    "checkpoint",
    "host memory",
    "sampler",
    "encoders",
  ):
    assert word in done.stdout


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--topology=v9:4x4"], ["v9:4x4", "v5p", "gpu:"]),
    ([], ["--topology is missing"]),
    (["--topology=cpu:8", "--mesh=cpu:8"], ["topology's"]),
    (["--topology=cpu:8", "--stages=trane"], ["'trane' is not a stage"]),
    (["--topology=cpu:8", "--search", "--tries=0"], ["--tries=0", "above 0"]),
    (["--topology=cpu:8", "--search", "--stages=sample"], ["a search plans the train"]),
    (["--topology=cpu:8", "--price=nan"], ["--price=nan: must be a number"]),
    (["--topology=cpu:8", "--clips=²"], ["'²' is not a number of tokens"]),
    (
      [
        "--topology=cpu:8",
        "--config.dit.architecture=wan",
        "--config.dit.checkpoint=/no",
      ],
      ["config.dit.checkpoint='/no' is not a transformer"],
    ),
    (["--topology=cpu:8", "--json=/no/such/folder/x.json"], ["is not a folder"]),
  ],
)
def test_what_is_wrong_is_said_in_one_message(arguments, words):
  done = _plan(*arguments)
  assert done.returncode == 2
  assert done.stderr.startswith("error:") and "Traceback" not in done.stderr
  for word in words:
    assert word in done.stderr
