"""The writer: what TFDS reads, and what a kill cannot spoil."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from array_record.python import array_record_module
import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data import clips
from video_dit.data import disk, parts, reader, schema, verify, writer

_CHILD = """
import os, sys
from video_dit.data import writer
from tests.data import clips

folder, stop, where = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if where == "rename":  # dies in the middle of finish, after some renames
  import pathlib
  real, left = pathlib.Path.replace, [stop]
  def replace(self, target):
    left[0] -= 1
    if left[0] < 0:
      os._exit(9)
    return real(self, target)
  pathlib.Path.replace = replace
w = writer.ShardWriter(folder, clips.metadata(), shard_records=4)
done = clips.committed(folder)
for i, (record, split) in enumerate(clips.records(23)):
  if record.key in done:
    continue
  if where == "write" and i == stop:
    os._exit(9)
  w.write(record, split)
w.finish()
"""


def _run(folder: pathlib.Path, stop: int, where: str) -> int:
  root = pathlib.Path(__file__).resolve().parents[2]
  return subprocess.run(
    [sys.executable, "-c", _CHILD, str(folder), str(stop), where],
    env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
    check=False,
  ).returncode


def _write(folder: pathlib.Path, num: int, start: int = 0) -> None:
  with writer.ShardWriter(folder, clips.metadata(), shard_records=4) as w:
    for record, split in clips.records(num, start):
      w.write(record, split)
    w.finish()


def _checksums(folder: pathlib.Path) -> list[tuple[str, str]]:
  """Split and checksum of every record's bytes, sorted."""
  builder = tfds.builder_from_directory(str(folder))
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  return sorted(
    (split, hashlib.sha256(record).hexdigest())
    for split in builder.info.splits
    for record in builder.as_data_source(split, deserialize_method=raw)
  )


def test_tfds_reads_what_is_written_without_tensorflow(tmp_path):
  _write(tmp_path, 11)
  code = f"""
import sys
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory({str(tmp_path)!r})
source = builder.as_data_source("train")
example = source[3]
print(len(source), example["latent"].dtype, example["latent"].ndim, example["text"].ndim)
assert "tensorflow" not in sys.modules
"""
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
  assert out.stdout.decode().split() == ["9", "float16", "4", "2"]
  assert "tensorflow" not in sys.modules


def test_shards_have_the_names_of_tfds(tmp_path):
  _write(tmp_path, 11)
  assert sorted(path.name for path in tmp_path.glob("*array_record*")) == [
    "latents-train.array_record-00000",
    "latents-train.array_record-00001",
    "latents-train.array_record-00002",
    "latents-validation.array_record-00000",
  ]


def test_records_come_back_as_written(tmp_path):
  _write(tmp_path, 11)
  written = {record.key: record for record, _ in clips.records(11)}
  dataset = reader.Dataset(tmp_path)
  for i in range(len(dataset)):
    record = dataset[i]
    expected = written[record.key]
    np.testing.assert_array_equal(record.latent, expected.latent)
    np.testing.assert_array_equal(record.text, expected.text)
    assert record.caption == expected.caption
    assert record.frames_per_second == expected.frames_per_second
    assert record.line() == expected.line()


def test_pixels_come_back_as_written(tmp_path):
  clip = np.arange(2 * 6 * 4 * 3, dtype=np.uint8).reshape(2, 6, 4, 3)
  record = schema.PixelRecord(
    key="0" * 32, clip=clip, caption="é", frames_per_second=8.0, start_seconds=1.5
  )
  with writer.ShardWriter(tmp_path, schema.Metadata(kind="pixels")) as w:
    w.write(record, "train")
    w.finish()
  read = reader.Dataset(tmp_path)[0]
  np.testing.assert_array_equal(read.clip, clip)
  assert (read.caption, read.start_seconds) == ("é", 1.5)


@pytest.mark.parametrize(
  ("stop", "where"),
  # Renames: 2 of the metadata, 12 of six parts, then shards.json, the index,
  # features.json and dataset_info.json.
  [(9, "write"), (7, "rename"), (15, "rename"), (17, "rename")],
)
def test_killed_and_run_again_equals_uninterrupted(tmp_path, stop, where):
  assert _run(tmp_path / "killed", stop, where) == 9
  assert not (tmp_path / "killed" / "dataset_info.json").exists()
  assert _run(tmp_path / "killed", 0, "nowhere") == 0
  _write(tmp_path / "whole", 23)
  assert _checksums(tmp_path / "killed") == _checksums(tmp_path / "whole")


def test_an_error_commits_the_whole_records(tmp_path):
  with pytest.raises(RuntimeError), writer.ShardWriter(tmp_path, clips.metadata()) as w:
    for record, split in clips.records(5):
      w.write(record, split)
    raise RuntimeError
  writer.ShardWriter(tmp_path, clips.metadata())
  assert clips.committed(tmp_path) == {record.key for record, _ in clips.records(5)}


def test_records_are_added_to_a_finished_set(tmp_path):
  _write(tmp_path / "once", 11)
  _write(tmp_path / "twice", 6)
  _write(tmp_path / "twice", 5, start=6)
  assert _checksums(tmp_path / "once") == _checksums(tmp_path / "twice")


def test_a_set_grows_without_touching_its_shards(tmp_path):
  _write(tmp_path, 6)
  before = {path: path.stat().st_ino for path in tmp_path.glob("*array_record*")}
  moves = _Moves()
  with writer.ShardWriter(tmp_path, clips.metadata(), disk=moves) as w:
    for record, split in clips.records(5, 6):
      w.write(record, split)
    w.finish()
  assert len(reader.Dataset(tmp_path)) == 9
  assert {path: path.stat().st_ino for path in before} == before
  assert moves.made == []


class _Moves(disk.Disk):
  """Takes down what is moved, and breaks where told to."""

  def __init__(self, most: int = 99):
    self.made, self.most = [], most

  def move(self, old, new):
    if len(self.made) == self.most:
      raise OSError("broken")
    self.made.append((old.name, new.name))
    super().move(old, new)


def test_gaps_between_the_parts_of_hosts_are_filled_by_the_last(tmp_path):
  def host(number: int, **settings) -> writer.ShardWriter:
    return writer.ShardWriter(
      tmp_path, clips.metadata(), shard_records=2, host=number, hosts=3, **settings
    )

  broken = host(0, disk=_Moves(most=1))
  writers = [broken, host(1), host(2)]
  for i, (record, _) in enumerate(clips.records(23)):
    writers[0 if i > 5 else i % 3].write(record, "train")
  for each in writers:
    each.close()
  numbers = [path.name[-5:] for path in sorted(tmp_path.glob("*array_record*"))]
  assert numbers == [f"{n:05d}" for n in (0, 1, 2, 3, *range(6, 28, 3))]
  with pytest.raises(OSError, match="broken"):
    broken.finish()
  assert verify.verify(tmp_path).records == 23
  moves = _Moves()
  with writer.ShardWriter(tmp_path, clips.metadata(), disk=moves) as again:
    again.finish()
  found = sorted(path.name for path in tmp_path.glob("*array_record*"))
  assert found == [f"latents-train.array_record-{n:05d}" for n in range(12)]
  (back, *moved) = moves.made
  assert back == broken._disk.made[0][::-1]
  assert [int(old[-5:]) for old, _ in moved] == [12, 15, 18, 21, 24, 27]
  assert [int(new[-5:]) for _, new in moved] == [4, 5, 7, 8, 10, 11]
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (23, [], True)
  # The index says of every record where it lies.
  data = reader.Dataset(tmp_path)
  lines = {record.key: record for record, _ in clips.records(23)}
  for i in range(len(data)):
    assert data[i].key == data.index.key[i].decode()
    np.testing.assert_array_equal(data[i].latent, lines[data[i].key].latent)
    shard, offset = (data.index.column(name)[i] for name in ("shard", "offset"))
    source = array_record_module.ArrayRecordReader(str(tmp_path / shard))
    found = schema.parse(data.metadata, source.read([int(offset)])[0])
    assert found.key == data[i].key


class _Meanwhile(disk.Disk):
  """The other hosts of the set begin whenever a file is complete."""

  def __init__(self, folder):
    self.folder = folder

  def wrote(self, path):
    for host in (1, 2):
      writer.ShardWriter(self.folder, clips.metadata(), host=host, hosts=3)


def test_a_host_that_begins_disturbs_no_other_that_writes_or_finishes(tmp_path):
  writer.ShardWriter(tmp_path, clips.metadata())
  for host, num in ((1, 4), (0, 8)):
    with writer.ShardWriter(
      tmp_path,
      clips.metadata(),
      shard_records=2,
      host=host,
      hosts=3,
      disk=disk.LOCAL if host else _Meanwhile(tmp_path),
    ) as w:
      for record, _ in clips.records(num, 10 * host):
        w.write(record, "train")
      if not host:
        w.finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (12, [], True)


def test_the_list_of_a_part_comes_after_its_shard(tmp_path):
  made = []

  class Watched(disk.Disk):
    def wrote(self, path):
      if "train" in path.name:
        lists = [other.name for other in (tmp_path / "parts").glob("*.parquet")]
        made.append((path.name, lists))

  with writer.ShardWriter(tmp_path, clips.metadata(), disk=Watched()) as w:
    w.write(next(clips.records(1))[0], "train")
  assert made == [
    ("latents-train.array_record-00000", []),
    ("train-00000.parquet", ["train-00000.parquet"]),
  ]


class _Breaks(disk.Disk):
  """Ends after so many changes, as a kill would."""

  def __init__(self, left: int):
    self.left = left

  def wrote(self, path):
    self.left -= 1
    if self.left < 0:
      raise KeyboardInterrupt

  def remove(self, path):
    self.wrote(path)
    super().remove(path)


@pytest.mark.parametrize("left", [*range(0, 16, 3), 99])
def test_records_are_dropped_and_the_parts_of_others_stay(tmp_path, left):
  _write(tmp_path, 23)
  whole = set(_checksums(tmp_path))
  # Two of the first shard, and all four of the third.
  data = reader.Dataset(tmp_path)
  dropped = {data[i].key for i in (0, 2, 8, 9, 10, 11)}
  others = sorted(tmp_path.glob("latents-train*"))[1::2]
  before = {path: path.stat().st_ino for path in others}
  with contextlib.suppress(KeyboardInterrupt):
    broken = writer.ShardWriter(tmp_path, clips.metadata())
    broken._disk = _Breaks(left)
    broken.drop(dropped)
  with writer.ShardWriter(tmp_path, clips.metadata()) as again:
    again.drop(dropped)
    assert dropped.isdisjoint(clips.committed(tmp_path))
    lost = 23 - len(dropped) - len(clips.committed(tmp_path))
    assert lost <= (2 if left < 99 else 0)  # those of the part that was written again
    again.finish()
  report = verify.verify(tmp_path)
  assert (report.records, report.faults) == (23 - 6 - lost, [])
  assert set(_checksums(tmp_path)) < whole
  assert len(before) == 2 and {path: path.stat().st_ino for path in others} == before


def test_what_cannot_be_read_is_dropped_with_the_rest(tmp_path):
  _write(tmp_path, 4)
  (shard,) = tmp_path.glob("latents-train*")
  data = bytearray(shard.read_bytes())
  keys = [record.key for record, _ in clips.records(4)]
  data[data.index(keys[2].encode())] ^= 255
  shard.write_bytes(data)
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    w.drop({keys[0]})
    assert clips.committed(tmp_path) == {keys[1], keys[3]}
    w.finish()
  assert not verify.verify(tmp_path).faults


def _write_twice(folder, num: int) -> list:
  """Records of two hosts, of which the middle one is of both."""
  made = [record for record, _ in clips.records(num)]
  hosts = [
    writer.ShardWriter(folder, clips.metadata(), shard_records=4, host=i, hosts=2)
    for i in range(2)
  ]
  for host, share in zip(hosts, (made[: num // 2], made[num // 2 - 1 :]), strict=True):
    for record in share:
      host.write(record, "train")
    host.close()
  return made


def test_what_two_hosts_made_is_kept_once_and_the_rest_stays(tmp_path, caplog):
  made = _write_twice(tmp_path, 6)
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    w.finish()
    assert clips.committed(tmp_path) == {record.key for record in made}
  assert "clips that two hosts had made, of which one record stays: 1." in caplog.text
  report = verify.verify(tmp_path)
  assert (report.records, report.faults, report.finished) == (6, [], True)
  data = reader.Dataset(tmp_path)
  found = {data[i].key: data[i].latent for i in range(len(data))}
  for record in made:
    np.testing.assert_array_equal(found[record.key], record.latent)


def test_what_cannot_be_read_is_not_lost_beside_what_was_made_twice(tmp_path):
  made = _write_twice(tmp_path, 4)
  shard = tmp_path / "latents-train.array_record-00001"
  data = bytearray(shard.read_bytes())
  data[data.index(made[3].key.encode())] ^= 255
  shard.write_bytes(data)
  again = writer.ShardWriter(tmp_path, clips.metadata())
  with pytest.raises(writer.DiskError, match=r"-00001: 1 of its records .* Remove this"):
    again.finish()
  assert shard.read_bytes() == data and not again.finished
  shard.unlink()
  with writer.ShardWriter(tmp_path, clips.metadata()):
    assert clips.committed(tmp_path) == {record.key for record in made[:2]}


def test_parts_are_counted_once_and_not_for_each_new_one(tmp_path, monkeypatch):
  count, counted = writer.ShardWriter._numbers, []

  def numbers(self, split):
    counted.append(split)
    return count(self, split)

  monkeypatch.setattr(writer.ShardWriter, "_numbers", numbers)

  def names():
    return sorted(path.stem for path in (tmp_path / "parts").glob("*.parquet"))

  writer.ShardWriter(tmp_path, clips.metadata())  # the first host begins
  for start in (0, 4):
    with writer.ShardWriter(
      tmp_path, clips.metadata(), shard_records=1, host=1, hosts=3
    ) as w:
      for record, _ in clips.records(4, start):
        w.write(record, "train")
  assert names() == [f"train-{n:05d}" for n in range(1, 24, 3)]
  assert counted == ["train", "train"]
  with writer.ShardWriter(
    tmp_path, clips.metadata(), shard_records=2, host=1, hosts=3
  ) as w:
    w.write(next(clips.records(1, 8))[0], "train")
    w.drop({clips.key(i) for i in (6, 7)})  # while another part is being written
    w.close()
    w.drop({clips.key(8)})
    w.write(next(clips.records(1, 9))[0], "train")
  assert names() == [f"train-{n:05d}" for n in range(1, 20, 3)]


def test_finishing_again_changes_nothing(tmp_path):
  _write(tmp_path, 6)
  before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*array_record*")}
  _write(tmp_path, 0)
  assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_list_of_shards_is_named_and_nothing_is_removed(tmp_path):
  _write(tmp_path, 8)
  (tmp_path / parts.SHARDS).write_text('{"train-00000"')
  before = _checksums(tmp_path)
  with pytest.raises(ValueError, match=r"shards.json: is not JSON.*another folder"):
    _write(tmp_path, 8, start=8)
  assert _checksums(tmp_path) == before


def test_a_finished_set_whose_gaps_were_filled_is_opened_without_loss(tmp_path):
  for host in range(3):
    with writer.ShardWriter(
      tmp_path, clips.metadata(), shard_records=2, host=host, hosts=3
    ) as w:
      for record, _ in clips.records(2 if host else 8, 10 * host):
        w.write(record, "train")
  for _ in range(2):
    with writer.ShardWriter(tmp_path, clips.metadata()) as w:
      w.finish()
      assert w.finished and len(clips.committed(tmp_path)) == 12
    report = verify.verify(tmp_path)
    assert (report.records, report.faults, report.finished) == (12, [], True)
  writer.ShardWriter(tmp_path, clips.metadata(), host=1, hosts=3).close()
  assert not verify.verify(tmp_path).faults


def test_a_key_is_written_once(tmp_path):
  with writer.ShardWriter(tmp_path, clips.metadata()) as w:
    record, split = next(clips.records(1))
    w.write(record, split)
    with pytest.raises(ValueError, match=record.key):
      w.write(record, split)


def test_one_set_has_one_maker(tmp_path):
  _write(tmp_path, 2)
  with pytest.raises(ValueError, match=r"autoencoder 'ae-1'.*'ae-2'.*[Cc]hoose"):
    writer.ShardWriter(tmp_path, clips.metadata(autoencoder="ae-2"))


@pytest.mark.parametrize("name", ["train-00000.array_record", "train-h001-00000.parquet"])
def test_parts_of_an_earlier_version_are_refused_and_stay(tmp_path, name):
  _write(tmp_path, 6)
  (tmp_path / "parts" / name).write_bytes(b"1")
  with pytest.raises(ValueError, match=rf"{name}: .*earlier version.*output folder"):
    writer.ShardWriter(tmp_path, clips.metadata())
  assert (tmp_path / "parts" / name).exists()
  assert len(reader.Dataset(tmp_path)) == 5


def test_nothing_to_finish_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no record was written"):
    writer.ShardWriter(tmp_path, clips.metadata()).finish()


def test_a_part_that_holds_fewer_records_than_were_written_is_refused(tmp_path):
  part = parts.begin(tmp_path, "train-00000")
  for record, _ in clips.records(2):
    part.file.write(b"record")
    part.lines.append(record.line())
  part.lines.append(record.line())
  with pytest.raises(OSError, match="2 of 3 records arrived"):
    parts.close(part)


def test_records_of_unknown_origin_are_refused_and_stay(tmp_path):
  _write(tmp_path, 8)
  (tmp_path / schema.PROVENANCE).unlink()
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  with pytest.raises(ValueError, match=r"no provenance.json .*Restore that file"):
    writer.ShardWriter(tmp_path, clips.metadata())
  assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_copy_beside_the_shards_stays(tmp_path):
  _write(tmp_path, 8)
  copy = tmp_path / "latents-train.array_record-00000.bak"
  copy.write_text("kept")
  _write(tmp_path, 4, start=8)
  assert copy.read_text() == "kept"


def test_a_folder_that_is_removed_meanwhile_is_named_so(tmp_path):
  folder = tmp_path / "set"
  w = writer.ShardWriter(folder, clips.metadata(), shard_records=4)
  with pytest.raises(writer.DiskError, match=r"set: was removed while"):
    for i, (record, _) in enumerate(clips.records(4)):
      if i == 2:
        shutil.rmtree(folder)
      w.write(record, "train")
