"""The command: a mistake is refused with its key, before anything is compiled."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ("arguments", "status", "said"),
  [
    (["--help"], 0, "--workdir=FOLDER"),
    (["--config=configs/xl.py"], 2, "--workdir is missing"),
    (
      ["--config=configs/xl.py", "--workdir=WORKDIR", "--mesh=cpu:1"],
      2,
      "config.data.path",
    ),
  ],
  ids=["help", "no workdir", "no data"],
)
def test_a_mistake_is_one_message(arguments, status, said, tmp_path):
  arguments = [word.replace("WORKDIR", str(tmp_path / "run")) for word in arguments]
  run = subprocess.run(
    [sys.executable, "-m", "video_dit.main", *arguments],
    cwd=_ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  text = run.stdout + run.stderr
  assert run.returncode == status, text
  assert said in text and "Traceback" not in text
  assert not (tmp_path / "run").exists()
