"""Two real processes make one data set, each its share, and one may start again."""

import os
import pathlib
import socket
import subprocess
import sys

import pyarrow.parquet

from tests.preprocess.files import moving
from video_dit import config as config_lib
from video_dit.data import reader, verify
from video_dit.media import write

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
_CHILD = """
import pathlib, sys
import jax
address, index, count = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
if address:
  jax.distributed.initialize(address, count, index)
  assert (jax.process_index(), jax.process_count()) == (index, count)
from video_dit import config
from video_dit.preprocess import run
made = run.preprocess(
  config.from_text(pathlib.Path(sys.argv[1]).read_text()), *sys.argv[2:4],
  host=index, hosts=count,
).made
print("WRITTEN", made.written, made.reused)
"""


def _start(config, media, output, address, index):
  return subprocess.Popen(
    [
      *(sys.executable, "-c", _CHILD, str(config), str(media), str(output)),
      *(address, str(index), "2"),
    ],
    cwd=REPOSITORY,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _written(process) -> tuple[int, int]:
  text, _ = process.communicate(timeout=600)
  assert process.returncode == 0, text
  line = next(line for line in text.splitlines() if line.startswith("WRITTEN"))
  return tuple(map(int, line.split()[1:]))


def _keys(folder) -> list[str]:
  data = reader.Dataset(folder)
  return sorted(data[i].key for i in range(len(data)))


def test_two_hosts_make_one_set(config, tmp_path):
  media = tmp_path / "in"
  media.mkdir()
  for i in range(6):
    write.write_video(media / f"{i}.png", moving(1, 32, 32 + 8 * (i % 2), i), 8.0)
  (tmp_path / "config").write_text(config_lib.to_text(config))
  with socket.socket() as found:
    found.bind(("localhost", 0))
    address = f"localhost:{found.getsockname()[1]}"
  output = tmp_path / "out"
  both = [_start(tmp_path / "config", media, output, address, index) for index in (0, 1)]
  first, second = (_written(process) for process in both)
  # The first host counts what all have made.
  assert first[0] == 6 and 0 < second[0] < 6
  clips = pyarrow.parquet.read_table(output / "clips.parquet")
  assert _keys(output / "latents") == sorted(clips["key"].to_pylist())
  assert not verify.verify(output / "latents").faults
  # Each starts again by itself, in any order, and finds that all is done.
  assert _written(_start(tmp_path / "config", media, output, "", 1)) == (0, 0)
