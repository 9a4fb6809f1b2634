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
  ],
  ids=["help", "no workdir"],
)
def test_help_and_a_mistake_are_one_message(arguments, status, said):
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
