"""Killed at any moment and run again, preprocess ends with the same records."""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

from video_dit import config as config_lib
from video_dit.data import reader

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
import ml_collections
def get_config():
  return ml_collections.ConfigDict({tree!r}).lock()
"""
# Moments of a run, each a pattern of files and how many there are.
_MOMENTS = [
  ("work/facts.sqlite", 1),
  ("text*", 1),
  ("latents/parts/*.parquet", 1),
  ("latents/parts/*.parquet", 2),
]


def _start(config_file, media, output):
  command = [sys.executable, "-m", "video_dit.preprocess", "--mesh=cpu:1"]
  flags = [f"--config={config_file}", f"--input={media}", f"--output={output}"]
  environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
  return subprocess.Popen(
    [*command, *flags],
    cwd=REPOSITORY,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _finish(config_file, media, output):
  process = _start(config_file, media, output)
  text, _ = process.communicate()
  return process.returncode, text


def _checksums(folder):
  """Checksums of the sorted records, whole."""
  sums = []
  for split in ("train",):
    data = reader.Dataset(folder, split)
    for i in range(len(data)):
      record = data[i]
      parts = [record.latent.tobytes(), record.text.tobytes(), record.caption.encode()]
      parts += [f"{record.frames} {record.height} {record.width}".encode()]
      sums.append((record.key, hashlib.sha256(b"\0".join(parts)).hexdigest()))
  return sorted(sums)


@pytest.fixture(scope="module")
def config_file(config, tmp_path_factory):
  path = tmp_path_factory.mktemp("configs") / "tiny.py"
  path.write_text(_CONFIG.format(tree=config_lib.to_dict(config)))
  return path


def _kill_at(process, output, pattern, number, seconds):
  """Kills the process a little after a moment of its run; False where it was done."""
  while process.poll() is None and len(list(output.glob(pattern))) < number:
    time.sleep(0.002)
  time.sleep(seconds)
  running = process.poll() is None
  process.send_signal(signal.SIGKILL)
  process.communicate()
  return running


def test_killed_and_resumed_equals_uninterrupted(config_file, media, tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  code, text = _finish(config_file, media, whole)
  assert code == 0, text
  assert "9 lines + 1 more of long videos = 6 clips + 4 rejects" in text
  draw = random.Random()
  struck = 0
  for pattern, number in _MOMENTS:
    process = _start(config_file, media, killed)
    struck += _kill_at(process, killed, pattern, number, draw.uniform(0.0, 0.05))
  assert struck >= 2
  code, text = _finish(config_file, media, killed)
  assert code == 0, text
  expected = _checksums(whole / "latents")
  assert len({key for key, _ in expected}) == len(expected) == 6
  assert _checksums(killed / "latents") == expected
  for name in ("clips.parquet", "rejects.parquet"):
    tables = [pyarrow.parquet.read_table(out / name) for out in (whole, killed)]
    assert tables[0].equals(tables[1])
  left = [p for p in killed.rglob("*") if ".unfinished" in p.name]
  assert not left


def test_command_fails_where_nothing_could_be_done(config_file, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  (folder / "a.mp4").write_text("no")
  code, text = _finish(config_file, folder, tmp_path / "out")
  assert code == 1, text
  assert "no clip came of" in text
  assert "rejects.parquet" in text
