"""Every record is read, and what is bad is named; what the disk refuses costs a shard."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data import clips
from video_dit.data import keys, reader, schema, verify, writer

# A file may grow to so many bytes, then the disk refuses: SIGXFSZ is ignored.
_FULL = """
import resource, signal, sys
from video_dit.data import writer
from tests.data import clips

with writer.ShardWriter(sys.argv[1], clips.metadata(), shard_records=8) as w:
  for i, (record, split) in enumerate(clips.records(40)):
    if i == 24:
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))
    try:
      w.write(record, "train")
    except writer.DiskError as error:
      print(error)
      sys.exit(3)
"""


def test_a_good_set_has_no_faults(tmp_path):
  clips.write(tmp_path, 40)
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (40, [], True)
  assert report.shards == 3 and report.bytes > 0


def test_a_damaged_record_is_named(tmp_path):
  clips.write(tmp_path, 40)
  shard = tmp_path / "latents-train.array_record-00000"
  key = reader.Dataset(tmp_path)[0].key.encode()
  data = bytearray(shard.read_bytes())
  place = data.index(key)
  data[place : place + 4] = b"\0\0\0\0"
  shard.write_bytes(data)
  report = verify.verify(tmp_path)
  (fault,) = report.faults
  assert str(shard) in fault.where and key.decode() in fault.where
  assert report.records == 40


def test_a_lost_shard_is_named_and_only_its_clips_are_made_anew(tmp_path):
  clips.write(tmp_path, 40)
  lost = tmp_path / "latents-train.array_record-00001"
  lost.unlink()
  (fault,) = verify.verify(tmp_path).faults
  assert str(lost.name) in fault.where or "missing" in fault.message
  with writer.ShardWriter(tmp_path, clips.metadata(), shard_records=16) as w:
    done = w.written_keys()
    assert len(done) == 24
    for record, split in clips.records(40):
      if record.key not in done:
        w.write(record, split)
    w.finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults) == (40, [])


def test_a_full_disk_costs_the_shard_in_flight(tmp_path):
  root = pathlib.Path(__file__).resolve().parents[2]
  child = subprocess.run(
    [sys.executable, "-c", _FULL, str(tmp_path)],
    env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert child.returncode == 3, child.stderr
  assert "24 records before it are safe. Free some space" in child.stdout
  assert verify.verify(tmp_path).records == 24
  with writer.ShardWriter(tmp_path, clips.metadata(), shard_records=8) as w:
    done = w.written_keys()
    for record, _ in clips.records(40):
      if record.key not in done:
        w.write(record, "train")
    w.finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults) == (40, [])


def test_several_hosts_write_one_set(tmp_path):
  writers = [
    writer.ShardWriter(tmp_path, clips.metadata(), shard_records=4, host=h, hosts=2)
    for h in range(2)
  ]
  for i, (record, split) in enumerate(clips.records(30)):
    writers[i % 2].write(record, split)
  writers[1].close()
  # The other host starts again while this one goes on, and loses nothing of it.
  again = writer.ShardWriter(tmp_path, clips.metadata(), shard_records=4, host=1, hosts=2)
  assert len(again.written_keys()) >= 15
  writers[0].finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (30, [], True)


def test_what_two_hosts_made_twice_is_kept_once(tmp_path):
  for host in range(2):
    with writer.ShardWriter(
      tmp_path, clips.metadata(), shard_records=4, host=host, hosts=2
    ) as w:
      w._keys = keys.Keys()  # as if both had begun before either wrote
      for record, _ in clips.records(8):
        w.write(record, "train")
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    w.finish()
  assert verify.verify(tmp_path).records == 8


@pytest.fixture
def several(tmp_path):
  """A set whose clips have up to three captions."""
  with writer.ShardWriter(tmp_path, clips.metadata(several=True)) as w:
    for i, (record, split) in enumerate(clips.records(10)):
      more = [np.full((j + 1, clips.TEXT_WIDTH), j, np.float16) for j in range(i % 3)]
      names = [f"caption {j}" for j in range(i % 3)]
      w.write(record.with_captions(names, more, [2.0, 1.0, 1.0][: 1 + i % 3]), split)
    w.finish()
  return tmp_path


def test_captions_come_by_their_weights(several):
  data = reader.Dataset(several)
  record = max((data[i] for i in range(len(data))), key=lambda r: len(r.more_captions))
  assert record.more_captions == ("caption 0", "caption 1")
  drawn = [record.draw_text(x) for x in np.linspace(0, 0.999, 200)]
  lengths = [(t.shape[0], float(t[0, 0])) for t in drawn]
  assert lengths.count((1, 0.0)) == lengths.count((2, 1.0)) == 50
  assert sum(np.array_equal(t, record.text) for t in drawn) == 100
  i = [data[i].key for i in range(len(data))].index(record.key)
  assert data.index.text_tokens[i] == max(2, len(record.text))
  assert not verify.verify(several).faults


def test_a_set_with_room_for_one_caption_refuses_several(tmp_path):
  clips.write(tmp_path, 4)
  (record, _), *_ = clips.records(1, start=9)
  text = np.zeros((1, clips.TEXT_WIDTH), np.float16)
  with (
    writer.ShardWriter(tmp_path, clips.metadata()) as w,
    pytest.raises(ValueError, match=r"2 captions.*--overwrite"),
  ):
    w.write(record.with_captions(["more"], [text], [1.0, 1.0]), "train")
  with pytest.raises(ValueError, match="several"):
    writer.ShardWriter(tmp_path, clips.metadata(several=True))
  assert schema.Metadata.load(tmp_path).several is False
