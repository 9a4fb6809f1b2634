"""Two real processes make one data set, each its share, and one may start again."""

import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest

from tests.preprocess import conftest
from tests.preprocess.files import moving
from tests.preprocess.plan_test import plan_of
from video_dit import config as config_lib
from video_dit import lock
from video_dit.data import reader, schema, verify
from video_dit.data import writer as writer_lib
from video_dit.media import write
from video_dit.preprocess import encode, hosts, makers, progress, run

_NAMES = ("config", "more")
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
  host=index, hosts=count, wait_seconds=4.0,
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
  for host, there in ((1, 0), (0, 6)):
    again = run.preprocess(config, media, output, host=host, hosts=2, wait_seconds=0)
    assert (again.made.written, again.made.reused) == (0, there)
  # A shard is gone: the hosts, one of which has more workers, mend it together.
  (output / "latents" / "latents-train.array_record-00000").unlink()
  workers = dataclasses.replace(config.media, workers=2)
  more = dataclasses.replace(config, media=workers)
  (tmp_path / "more").write_text(config_lib.to_text(more))
  both = [_start(tmp_path / name, media, output, "", i) for i, name in enumerate(_NAMES)]
  first, second = (_written(process) for process in both)
  assert first[0] == 2 and first[1] == 4 and second[0] <= 2
  assert not verify.verify(output / "latents").faults


_SLOW = """
import functools, runpy, sys, time
import jax
jax.distributed.initialize = functools.partial(
  jax.distributed.initialize, shutdown_timeout_seconds=2
)
from video_dit.preprocess import data_report
write = data_report.write

def slow(*args):
  time.sleep(8)
  return write(*args)

data_report.write = slow  # by the first host alone
sys.argv = ["preprocess", *sys.argv[1:]]
runpy.run_module("video_dit.preprocess", run_name="__main__")
"""


def test_a_host_that_is_done_waits_for_the_first(tmp_path):
  """JAX would abort both, the first in the middle of its work."""
  media = tmp_path / "in"
  media.mkdir()
  for i in range(2):
    write.write_video(media / f"{i}.png", moving(1, 32, 32, i), 8.0)
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  flags = ["--config=configs/autoencoder.py:demo", f"--input={media}"]
  flags += [f"--output={tmp_path / 'out'}", "--mesh=cpu:1", "--config.media.workers=1"]
  together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
  pair = [
    subprocess.Popen(
      [sys.executable, "-c", _SLOW, *flags],
      cwd=REPOSITORY,
      env={**os.environ, **together, "JAX_PROCESS_ID": str(i)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  said = [process.communicate(timeout=300)[0] for process in pair]
  assert [process.returncode for process in pair] == [0, 0], said
  assert (tmp_path / "out" / "report.html").exists()


def _team(folder, host, **settings) -> hosts.Team:
  media = dataclasses.replace(conftest.CONFIG.media, **settings)
  config = dataclasses.replace(conftest.CONFIG, media=media)
  return hosts.Team(folder, hosts.Inputs.of([], config, 2), host)


@pytest.fixture
def plan(tmp_path):
  """Four clips."""
  return plan_of(tmp_path, [(1, 16, 16)] * 4)


def _announce(team, plan, clips=(0, 1)) -> hosts.Word:
  team.begin()
  word, _ = team.announce(plan, np.isin(np.arange(len(plan)), clips))
  return word


def _done(team, word) -> None:
  team.done(word, progress.Made(), [("key", "reason", "message")])


def test_a_host_that_begins_again_makes_what_it_had_not_made(tmp_path, monkeypatch):
  sizes = [(16, 16), (16, 32), (32, 16), (32, 32)]  # which share no batch
  plan = plan_of(tmp_path, [(1, *size) for size in sizes])
  zero, one = _team(tmp_path, 0), _team(tmp_path, 1)
  word = _announce(zero, plan, clips=range(4))
  maker = makers.Pixels(plan, None)
  shares = []

  def add(writer, maker, plan, batches, *rest):
    shares.append(sorted(int(i) for batch in batches for i in batch.indices))
    return []

  monkeypatch.setattr(encode, "add", add)
  folder = tmp_path / "pixels"
  writer_lib.ShardWriter(folder, maker.metadata, hosts=2)  # the first host's

  def join():
    encode.join(folder, maker, plan, None, None, conftest.CONFIG.media, one, word)
    return shares[-1]

  first, *others = join()
  record = schema.PixelRecord(
    key=plan.key[first].decode(),
    clip=np.zeros((1, 16, 16, 3), np.uint8),
    caption=f"caption {plan.row[first]}",
    frames_per_second=8.0,
  )
  with writer_lib.ShardWriter(folder, maker.metadata, host=1, hosts=2) as writer:
    writer.write(record, "validation" if plan.is_validation[first] else "train")
  assert others and join() == others


def test_a_host_that_ended_is_not_waited_for(tmp_path, plan):
  zero, one = _team(tmp_path, 0), _team(tmp_path, 1)
  word = _announce(zero, plan)
  assert one.wait_for_work(0) == word and word.away == ()
  _done(one, word)
  assert one.wait_for_work(0, word.id) is None
  # Host 0 was stopped, and begins again: the same work is done, and other work is not.
  assert _announce(zero, plan) == word
  assert zero.gather(word)[1] == [("key", "reason", "message")]
  assert _announce(zero, plan, clips=(0, 3)).away == (1,)
  zero.finish(word)
  one.arrive()
  assert one.wait_for_work(0) is None  # All is done, so it ends.
  word = _announce(zero, plan)
  assert word.away == (1,)
  assert zero.gather(word) == ([], [])
  assert one.wait_for_work(0) is None
  for clips in ((0, 3), (0, 2, 3)):  # Host 0 was stopped again, and finds more to do.
    word = _announce(zero, plan, clips)
    assert word.away == (1,)
  zero.finish(word)
  # It is there again before the first host announces.
  one.arrive()
  assert _announce(zero, plan).away == ()


def test_a_host_waits_for_the_next_word_of_the_first(tmp_path, plan, monkeypatch):
  zero, one = _team(tmp_path, 0), _team(tmp_path, 1)
  zero.finish(_announce(zero, plan))
  monkeypatch.setattr(hosts.time, "sleep", lambda _: _announce(zero, plan))
  one.arrive()
  word = one.wait_for_work(60)
  assert word.is_work and word.away == ()
  # While it ends, the first host finds other work.
  monkeypatch.setattr(hosts.Team, "done", _announces_before(zero, plan))
  zero.finish(word)
  assert one.wait_for_work(0) is not None


def _announces_before(zero, plan):
  done = hosts.Team.done

  def late(team, word, *rest):
    if not word.is_work:
      assert _announce(zero, plan).away == ()
    done(team, word, *rest)

  return late


def test_other_settings_are_named_and_the_number_of_workers_is_free(
  tmp_path, plan, monkeypatch, caplog
):
  word = _announce(_team(tmp_path, 0), plan)
  assert _team(tmp_path, 1, workers=7, timeout_seconds=9.0).wait_for_work(0) == word
  other = _team(tmp_path, 1, max_frames=5)
  # It may be of an earlier run, so the next one is waited for.
  monkeypatch.setattr(hosts.time, "sleep", lambda _: _again())

  def _again():
    assert "config.media.max_frames 9 there, 5 here" in caplog.text
    zero = _team(tmp_path, 0)
    zero.finish(word)
    _announce(zero, plan)

  with pytest.raises(ValueError, match=r"config.media.max_frames 9 there, 5 here.*same"):
    other.wait_for_work(0)


def test_damaged_announcements_are_named(tmp_path, plan):
  zero, one = _team(tmp_path, 0), _team(tmp_path, 1)
  word = _announce(zero, plan)
  _done(one, word)
  (said,), (done,) = (tmp_path.rglob(name) for name in ("work.json", "done-1.json"))
  done.write_text('{"id"')
  with pytest.raises(ValueError, match=r"done-1.json: is not JSON.*start host 1 again"):
    zero.gather(word)
  said.write_text('{"id"')
  with pytest.raises(ValueError, match=r"work.json: is not JSON.*start host 0 again"):
    one.wait_for_work(0)


def test_a_host_is_there_once(config, media, tmp_path):
  pixels = dataclasses.replace(config, objective="reconstruction")
  folder = tmp_path / "out" / "work" / "hosts" / "1"
  with (
    lock.held(folder, flag="--host", wait_seconds=0),
    pytest.raises(lock.Busy, match=r"is using this folder.*another --host"),
  ):
    run.preprocess(pixels, media, tmp_path / "out", host=1, hosts=2, wait_seconds=0)
