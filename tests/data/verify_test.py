"""Every record is read, and what is bad is named; what the disk refuses costs a shard."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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


def _messages(folder: pathlib.Path) -> list[str]:
  return [fault.message for fault in verify.verify(folder).faults]


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


def test_records_that_are_read_some_at_a_time_are_set_against_their_own_lines(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(verify, "_TOGETHER", 3)
  clips.write(tmp_path, 20)  # 15 and 4, and one more
  report = verify.verify(tmp_path)
  assert (report.records, report.faults) == (20, [])
  shard = tmp_path / "latents-train.array_record-00000"
  keys_ = [reader.Dataset(tmp_path)[i].key for i in range(8)]
  data = bytearray(shard.read_bytes())
  for i in (4, 7):
    data[data.index(keys_[i].encode())] ^= 255
  shard.write_bytes(data)
  report = verify.verify(tmp_path)
  found = [fault.where.partition(", ")[2] for fault in report.faults]
  assert found == [f"record {i}, clip {keys_[i]}" for i in (4, 7)]
  assert report.records == 20


def test_damage_behind_the_last_record_is_named(tmp_path):
  clips.write(tmp_path, 4)
  shard = tmp_path / "latents-train.array_record-00000"
  data = bytearray(shard.read_bytes())
  data[1 << 16] ^= 255  # of what follows the records, in a block of its own
  shard.write_bytes(data)
  (message,) = _messages(tmp_path)
  assert message.startswith("the shard cannot be opened, 4 records are lost (Corrupted")


def test_a_lost_shard_is_named_and_only_its_clips_are_made_anew(tmp_path):
  clips.write(tmp_path, 40)
  lost = tmp_path / "latents-train.array_record-00001"
  lost.unlink()
  (fault,) = verify.verify(tmp_path).faults
  assert fault.where == str(lost)
  assert fault.message == "the shard is missing, with 16 records"
  with writer.ShardWriter(tmp_path, clips.metadata(), shard_records=16) as w:
    done = clips.committed(tmp_path)
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
    done = clips.committed(tmp_path)
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
  writer.ShardWriter(tmp_path, clips.metadata(), shard_records=4, host=1, hosts=2)
  assert len(clips.committed(tmp_path)) >= 15
  writers[0].finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (30, [], True)


def test_a_clip_that_two_parts_have_is_a_fault(tmp_path):
  for host in range(2):
    with writer.ShardWriter(tmp_path, clips.metadata(), host=host, hosts=2) as w:
      w._keys = keys.Keys()  # as if both had begun before either wrote
      w.write(next(clips.records(1))[0], "train")
  assert _messages(tmp_path) == ["occurs twice"]


def test_numbers_that_are_not_finite_are_faults(tmp_path):
  with writer.ShardWriter(tmp_path, clips.metadata(several=True)) as w:
    for i, (record, _) in enumerate(clips.records(4)):
      more = np.full((1, clips.TEXT_WIDTH), np.inf if i == 2 else 0, np.float16)
      if i < 2:
        (record.latent, record.text)[i][..., 0] = np.nan
      w.write(record.with_captions(["other"], [more], [1.0, 1.0]), "train")
    w.finish()
  names = ("latent", "text", "text")
  assert _messages(tmp_path) == [f"its {name} is not finite" for name in names]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (
      lambda lines: [lines[0] | {"caption": "y"}, *lines[1:]],
      ["has caption 'clip 0 à voir' but 'y' was written"],
    ),
    (lambda lines: [lines[0] | {"h": 1}, *lines[1:]], ["has h 4 but 1 was written"]),
    (
      lambda lines: [lines[0] | {"text_tokens": 9}, *lines[1:]],
      ["has text_tokens 2 but 9 was written"],
    ),
    (
      lambda lines: [
        *(lines[i] | {"key": lines[1 - i]["key"]} for i in range(2)),
        *lines[2:],
      ],
      [f"has key {clips.key(i)!r} but {clips.key(1 - i)!r} was written" for i in (0, 1)],
    ),
    (
      lambda lines: lines[:-1],
      [
        "holds 4 records but 3 were written",
        "lists 4 records but the shards' lists have 3; run again, which makes it anew",
      ],
    ),
  ],
  ids=["caption", "extent", "text", "keys", "number"],
)
def test_a_list_that_does_not_match_its_records_is_a_fault(change, said, tmp_path):
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    for record, _ in clips.records(4):
      w.write(record, "train")
    w.finish()
  path = tmp_path / "parts" / "train-00000.parquet"
  table = pq.read_table(path)
  pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)
  assert _messages(tmp_path) == said


def test_a_good_set_of_several_captions_has_no_faults(tmp_path):
  with writer.ShardWriter(tmp_path, clips.metadata(several=True)) as w:
    for i, (record, split) in enumerate(clips.records(10)):
      more = [np.full((j + 1, clips.TEXT_WIDTH), j, np.float16) for j in range(i % 3)]
      names = [f"caption {j}" for j in range(i % 3)]
      w.write(record.with_captions(names, more, [2.0, 1.0, 1.0][: 1 + i % 3]), split)
    w.finish()
  assert not _messages(tmp_path)
  data = reader.Dataset(tmp_path)
  found = {data[i].key: data[i].more_captions for i in range(len(data))}
  for i, (record, split) in enumerate(clips.records(10)):
    if split == "train":
      assert found[record.key] == ("caption 0", "caption 1")[: i % 3]


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


def _break(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
  ("name", "harm"),
  [
    (schema.INDEX, pathlib.Path.unlink),
    (schema.INDEX, _break),
    (schema.EMPTY, pathlib.Path.unlink),
    ("features.json", pathlib.Path.unlink),
  ],
)
def test_what_is_made_from_the_records_is_made_anew(tmp_path, name, harm):
  clips.write(tmp_path, 40)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
  harm(tmp_path / name)
  (fault,) = verify.verify(tmp_path).faults
  assert fault.where == str(tmp_path / name) and "run again" in fault.message
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    w.finish()
  assert verify.verify(tmp_path).faults == []
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_damaged_list_is_named_and_only_its_clips_are_made_anew(tmp_path, as_folder):
  clips.write(tmp_path, 40)
  path = tmp_path / "parts" / "train-00001.parquet"
  _break(path)
  if as_folder:
    path.unlink()
    path.mkdir()
  with pytest.raises(ValueError, match=r"train-00001.parquet: is no list .*Remove it"):
    writer.ShardWriter(tmp_path, clips.metadata())
  path.rmdir() if as_folder else path.unlink()
  with writer.ShardWriter(tmp_path, clips.metadata(), shard_records=16) as w:
    present = clips.committed(tmp_path)
    for record, split in clips.records(40):
      if record.key not in present:
        w.write(record, split)
    w.finish()
  assert len(present) == 24
  report = verify.verify(tmp_path)
  assert (report.faults, report.records, report.finished) == ([], 40, True)
