"""The command's pass over what lies there: every record read, each fault named."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.data import clips


def _verify(output: pathlib.Path | str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "video_dit.preprocess", "--verify", f"--output={output}"],
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )


@pytest.fixture
def output(tmp_path) -> pathlib.Path:
  """What preprocess leaves: a folder with a set of 40 latents."""
  clips.write(tmp_path / "latents", 40)
  return tmp_path


def test_a_whole_set_is_counted(output):
  done = _verify(output)
  assert done.returncode == 0, done.stderr
  assert "latents: 40 records in 3 shards" in done.stdout
  assert "0 faults; finished" in done.stdout


@pytest.mark.parametrize("place", ["", "file://"])
def test_a_cut_shard_is_named_with_what_to_do(output, place):
  if place:
    pytest.importorskip("fsspec")
  shard = output / "latents" / "latents-train.array_record-00001"
  shard.write_bytes(shard.read_bytes()[:100])
  done = _verify(f"{place}{output}")
  assert done.returncode == 1
  assert f"{place}{shard}: " in done.stdout and "finished" in done.stdout
  assert len(list(output.iterdir())) == 1  # Nothing is written.
  assert "remove the shards named above and run again" in done.stderr


def test_a_folder_without_a_set_is_refused(tmp_path):
  done = _verify(tmp_path)
  assert done.returncode == 2
  assert f"--output={tmp_path}: there is no data set" in done.stderr
