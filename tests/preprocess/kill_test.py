"""Killed at any moment and run again, preprocess ends with the same records."""

import hashlib
import pathlib
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet

from video_dit import config as config_lib
from video_dit.data import reader

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# What the command does, with a cache of compiled programs for all of these runs.
_CHILD = """
import pathlib, sys
import jax
jax.config.update("jax_compilation_cache_dir", sys.argv[4])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from video_dit import config
from video_dit.preprocess import run
run.preprocess(config.from_text(pathlib.Path(sys.argv[1]).read_text()), *sys.argv[2:4])
"""
_COMMAND = """
import ml_collections
def get_config():
  return ml_collections.ConfigDict({tree!r}).lock()
"""
# Moments of a run, each a pattern of files and how many there are.
_MOMENTS = [
  ("text*", 1),
  ("latents/parts/*.parquet", 1),
  ("latents/parts/*.parquet", 2),
]


def _start(*words):
  return subprocess.Popen(
    [sys.executable, *map(str, words)],
    cwd=REPOSITORY,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


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


def _kill_at(process, output, pattern, number, seconds):
  """Kills the process a little after a moment of its run; False where it was done."""
  while process.poll() is None and len(list(output.glob(pattern))) < number:
    time.sleep(0.02)
  time.sleep(seconds)
  running = process.poll() is None
  process.send_signal(signal.SIGKILL)
  process.communicate()
  return running


def test_killed_and_resumed_equals_uninterrupted(config, media, tmp_path):
  (tmp_path / "config").write_text(config_lib.to_text(config))
  whole, killed = tmp_path / "whole", tmp_path / "killed"

  def start(output):
    files = tmp_path / "config", media, output, tmp_path / "cache"
    return _start("-c", _CHILD, *files)

  def finish(output):
    process = start(output)
    text, _ = process.communicate()
    assert process.returncode == 0, text

  finish(whole)
  draw = random.Random()
  struck = 0
  for pattern, number in _MOMENTS:
    struck += _kill_at(start(killed), killed, pattern, number, draw.uniform(0.0, 0.05))
  assert struck >= 2
  finish(killed)
  expected = _checksums(whole / "latents")
  assert len({key for key, _ in expected}) == len(expected) == 6
  assert _checksums(killed / "latents") == expected
  for name in ("clips.parquet", "rejects.parquet"):
    tables = [pyarrow.parquet.read_table(out / name) for out in (whole, killed)]
    assert tables[0].equals(tables[1])
  assert not [p for p in killed.rglob("*") if ".unfinished" in p.name]


def test_command_fails_where_nothing_could_be_done(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  (folder / "a.mp4").write_text("no")
  file = tmp_path / "tiny.py"
  file.write_text(_COMMAND.format(tree=config_lib.to_dict(config)))
  process = _start(
    *("-m", "video_dit.preprocess", "--mesh=cpu:2", f"--config={file}"),
    *(f"--input={folder}", f"--output={tmp_path / 'out'}"),
  )
  text, _ = process.communicate()
  assert process.returncode == 1, text
  assert "1 lines = 0 clips + 1 rejects" in text
  assert "produced no clips" in text
