"""Files that change between the look at them and their decoding are not mistaken."""

import os
import shutil

import numpy as np
import pytest

from tests.preprocess import sets
from tests.preprocess.files import moving
from video_dit import config as config_lib
from video_dit.media import errors, write
from video_dit.preprocess import encode, examine, run, statistics, summary, unchanged

MEDIA = config_lib.Media(frames_per_second=8.0)
_FIELDS = {"frames": 9, "size": (32, 32), "first_frame": 0, "frames_per_second": 8.0}
_PART = {"record": None, "start_seconds": 0.0, "end_seconds": None, "media": MEDIA}


def _facts(path):
  found, _ = examine.work(examine.Examine(id=b"", file=str(path), **_PART))
  return found


def _decode(path, facts):
  job = examine.Decode(
    file=str(path), **_PART, **_FIELDS, sha256=facts["sha256"], stamp=facts["stamp"]
  )
  return examine.work(job)


def test_another_file_in_the_place_of_the_examined_one_is_refused(tmp_path):
  path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
  write.write_video(path, moving(9, 32, 32, 1), 8.0)
  write.write_video(other, moving(9, 32, 32, 2), 8.0)
  facts = _facts(path)
  _, clip = _decode(path, facts)
  assert clip.shape == (9, 32, 32, 3)
  os.utime(path, ns=(1, 1))  # The bytes are the same.
  _, again = _decode(path, facts)
  np.testing.assert_array_equal(again, clip)
  os.replace(other, path)
  found, clip = _decode(path, facts)
  assert clip is None
  assert found["reason"] == "changed"
  assert "run again" in found["message"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_read_of_a_file_that_changed_meanwhile_is_refused(tmp_path, fails):
  (tmp_path / "a").write_text("a")
  with (
    pytest.raises(errors.MediaError, match="changed since"),
    unchanged.while_read(str(tmp_path / "a")),
  ):
    (tmp_path / "a").write_text("other")
    if fails:
      raise ValueError("the decoder met half of it")


def test_a_file_replaced_after_ingest_is_made_by_the_next_run(
  pixels, tmp_path, monkeypatch
):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  for seed, name in enumerate(("a.mp4", "b.mp4")):
    write.write_video(folder / name, moving(9, 32, 32, seed), 8.0)
  write.write_video(tmp_path / "new.mp4", moving(9, 32, 32, 7), 8.0)
  make = encode.make

  def replaced(*args, **options):
    shutil.copy(tmp_path / "new.mp4", folder / "a.mp4")
    return make(*args, **options)

  monkeypatch.setattr(encode, "make", replaced)
  first = run.preprocess(pixels, folder, out)
  assert (first.made.written, first.made.failed) == (1, 1)
  assert first.counts.reasons == {"changed": 1}
  assert statistics.stages(first.counts)[-1] == ("encode", 1, 1)
  assert "changed: run the same command again" in summary.text(first, pixels)
  second = run.preprocess(pixels, folder, out)
  assert (second.examined, second.made.written, second.made.reused) == (1, 1, 1)
  rows = {r["key"]: r["path"] for r in sets.table(out, "clips.parquet")}
  (tmp_path / "only").mkdir()
  shutil.copy(tmp_path / "new.mp4", tmp_path / "only")
  expected = run.preprocess(pixels, tmp_path / "only", tmp_path / "alone").folder
  (wanted,) = sets.records(expected)
  found = {rows[r.key]: r.clip for r in sets.records(out / "pixels")}
  np.testing.assert_array_equal(found[str(folder / "a.mp4")], wanted.clip)


def test_a_clip_that_failed_is_tried_again_when_its_file_is_repaired(pixels, tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  path = folder / "a.mp4"
  write.write_video(path, moving(9, 32, 32, 1), 8.0)
  write.write_video(folder / "b.mp4", moving(9, 32, 32, 2), 8.0)
  run.preprocess(pixels, folder, out)
  shutil.rmtree(out / "pixels")
  stat, whole = path.stat(), path.read_bytes()
  path.write_bytes(bytes(stat.st_size))
  os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  for written in (1, 0):
    made = run.preprocess(pixels, folder, out).made
    assert (made.written, made.frames) == (written, 9 * written)
  path.write_bytes(whole)
  assert run.preprocess(pixels, folder, out).made.written == 1
