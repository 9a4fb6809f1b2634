"""Shards: any number of them by few open files, and what is no damage of a record."""

from concurrent import futures
import contextlib
import os
import pathlib
import random
import resource
import subprocess
import sys

from array_record.python import array_record_module
import pytest

from tests.data import clips
from video_dit.data import loader, parts, reader, shards, verify

_SHARDS = 160


def _bytes(shard: int, record: int) -> bytes:
  return f"record {record} of {shard}".encode()


def _write(folder: pathlib.Path) -> shards.Shards:
  """Shards of two records each."""
  paths = [str(folder / f"{i:05d}") for i in range(_SHARDS)]
  for i, path in enumerate(paths):
    file = array_record_module.ArrayRecordWriter(path, parts.OPTIONS)
    for record in range(2):
      file.write(_bytes(i, record))
    file.close()
  return shards.Shards(paths, [2] * _SHARDS)


def _open_files() -> int:
  return len(os.listdir("/proc/self/fd"))


@contextlib.contextmanager
def _no_more_files():
  """While it lasts, this process can open none."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_read_more_shards_than_stay_open(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "_MOST", 3)
  source = _write(tmp_path)
  assert len(source) == 2 * _SHARDS and source.place(5) == (str(tmp_path / "00002"), 1)
  before = _open_files()
  numbers = 4 * list(range(2 * _SHARDS))
  random.Random(0).shuffle(numbers)
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, numbers))
  assert found == [_bytes(i // 2, i % 2) for i in numbers]
  assert _open_files() <= before + 3


_UNDER_A_LIMIT = """
import resource, sys
from tests.data import shards_test
from video_dit.data import reader

soft, hard = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
data = reader.Dataset(sys.argv[1])
keys = [data[i].key for i in range(len(data))]
assert keys == data.index.key.astype(str).tolist() and len(keys) == 160
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
  """A finished set of 200 shards of one record each."""
  return clips.write(tmp_path_factory.mktemp("many"), 200, shard_records=1)


@pytest.mark.parametrize(
  ("soft", "hard", "after"), [(100, 100, 100), (100, 300, 300), (100, 4096, 640)]
)
def test_a_set_has_more_shards_than_a_process_may_open_files(many, soft, hard, after):
  """The limit is raised as far as it helps and the system allows."""
  command = [sys.executable, "-c", _UNDER_A_LIMIT, *map(str, (many, soft, hard))]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) == after


def test_the_want_of_files_is_no_damage(tmp_path):
  folder = clips.write(tmp_path, 30)
  dataset = reader.Dataset(folder)
  assert dataset[3].key
  # The second shard is not open yet.
  with _no_more_files(), pytest.raises(shards.HostError, match="Too many open files"):
    loader.read(dataset, 19)
  assert not dataset.damaged
  assert loader.read(dataset, 19).key == dataset.index.key[19].decode()
  with _no_more_files(), pytest.raises(shards.HostError):
    list(parts.read(folder / "latents-train.array_record-00001", [0]))


def test_verify_blames_no_shard_for_the_want_of_files(tmp_path, monkeypatch):
  clips.write(tmp_path, 30)
  assert not verify.verify(tmp_path).faults
  open_shard = shards.open_shard

  def without_files(path, *args):
    with _no_more_files():
      return open_shard(path, *args)

  monkeypatch.setattr(shards, "open_shard", without_files)
  with pytest.raises(shards.HostError, match="array_record-00000 could not be read"):
    verify.verify(tmp_path)


def test_a_shard_that_could_not_be_opened_is_opened_again(tmp_path):
  dataset = reader.Dataset(clips.write(tmp_path, 4))
  (shard,) = tmp_path.glob("latents-train*")
  shard.rename(tmp_path / "away")
  with pytest.raises(reader.RecordError, match="No such file"):
    dataset[0]
  (tmp_path / "away").rename(shard)
  assert dataset[0].key == clips.key(0)
