"""`convert` writes what can be read again, and says what it read."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.interop import encoders
from video_dit import interop
from video_dit.convert import run
from video_dit.interop.tensors import open_tensors


@pytest.fixture
def folder(tmp_path):
  encoders.write(tmp_path / "umt5", encoders.CONFIG, kind="umt5")
  (tmp_path / "umt5" / "spiece.model").write_bytes(b"pieces")
  return tmp_path / "umt5"


def test_it_writes_what_it_read(folder, tmp_path):
  told = "\n".join(run.convert(folder, tmp_path / "out"))
  for part in ("kind        umt5, names of transformers", "dtype       float32"):
    assert part in told
  assert "licence     Apache-2.0" in told and "config      heads=3" in told
  before, after = open_tensors(folder), open_tensors(tmp_path / "out")
  assert before.names == after.names
  for name in before.names:
    np.testing.assert_array_equal(before.read(name), after.read(name))
  assert (tmp_path / "out" / "spiece.model").read_bytes() == b"pieces"


def test_dtype_and_naming_may_be_chosen(folder, tmp_path):
  native, back = tmp_path / "native", tmp_path / "back"
  list(run.convert(folder, native, dtype="bfloat16", naming="native"))
  assert "blocks.1.attn.q.weight" in open_tensors(native).names
  assert not (native / "config.json").exists()
  list(run.convert(native, back, naming="transformers"))
  assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
  whole, half = interop.load(folder), interop.load(back)
  assert half.config == whole.config
  for a, b in zip(*map(encoders.leaves, (whole, half)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1 / 128)


def test_what_cannot_be_written_whole_leaves_nothing(folder, tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, "full")

  monkeypatch.setattr(run.shutil, "copyfile", full)
  with pytest.raises(OSError, match="full"):
    list(run.convert(folder, tmp_path / "out"))
  assert not (tmp_path / "out").exists()


def test_without_a_target_it_only_tells(folder):
  before = sorted(folder.iterdir())
  assert any("parameters" in line for line in run.convert(folder, None))
  assert sorted(folder.iterdir()) == before


_BESIDE_A_RUN = """
import runpy, sys
from jax._src import xla_bridge

def taken():
  raise RuntimeError("a run holds the accelerator")

xla_bridge.register_backend_factory("busy", taken, priority=900, fail_quietly=False)
sys.argv[0] = "convert"
runpy.run_module("video_dit.convert", run_name="__main__")
"""


def test_the_command_leaves_accelerators_alone(folder):
  environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
  said = subprocess.run(
    [sys.executable, "-c", _BESIDE_A_RUN, f"--from={folder}"],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert said.returncode == 0, said.stderr
  assert "kind        umt5" in said.stdout


def test_wrong_arguments_are_refused(folder, tmp_path):
  with pytest.raises(ValueError, match=r"--dtype=int8: must be one of float32"):
    list(run.convert(folder, tmp_path / "out", dtype="int8"))
  with pytest.raises(ValueError, match=r"--to=.*umt5: is not empty"):
    list(run.convert(folder, folder))
  with pytest.raises(ValueError, match=r"--step=3: .*umt5 is not the workdir of a run"):
    list(run.convert(folder, None, step=3))
  with pytest.raises(ValueError, match=r"is a file"):
    list(run.convert(folder, folder / "spiece.model"))
  with pytest.raises(ValueError, match=r"'diffusers' is not a naming of umt5"):
    list(run.convert(folder, tmp_path / "out", naming="diffusers"))
