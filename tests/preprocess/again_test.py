"""A run upon a finished one: what is added, changed, refused or made anew."""

import json
import os
import shutil

import pytest

from tests.preprocess import scenes, sets
from tests.preprocess.files import moving
from video_dit import lock
from video_dit.data import schema, verify
from video_dit.media import write
from video_dit.preprocess import run, summary


def test_second_run_does_nothing(done_pixels, pixels, media, copy):
  before = {p: p.stat().st_mtime_ns for p in (copy / "pixels").glob("*array_record*")}
  outcome = run.preprocess(pixels, media, copy)
  assert outcome.examined == 0
  assert (outcome.made.written, outcome.made.reused) == (0, 6)
  assert before == {p: p.stat().st_mtime_ns for p in before}
  for name in ("clips.parquet", "rejects.parquet"):
    assert sets.table(copy, name) == sets.table(done_pixels[1], name)


def test_a_second_run_in_the_output_is_refused_and_changes_nothing(
  pixels, media, copy, tmp_path
):
  out = copy
  before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
  (tmp_path / "other").mkdir()
  with (
    lock.held(out / "work", flag="--output", wait_seconds=0),
    pytest.raises(lock.Busy, match=r"work: process \d+ on .* choose another --output"),
  ):
    run.preprocess(pixels, tmp_path / "other", out, wait_seconds=0)
  after = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
  assert after == before | {out / "work" / "lock": after[out / "work" / "lock"]}


def test_added_files_are_added(pixels, media, copy, tmp_path):
  grown = tmp_path / "in"
  shutil.copytree(media, grown)
  first = run.preprocess(pixels, grown, copy)
  assert (first.made.written, first.made.reused) == (0, 6)
  write.write_video(grown / "new.mp4", moving(9, 32, 32, 77), 8.0)
  second = run.preprocess(pixels, grown, copy)
  assert second.examined == 1
  assert (second.made.written, second.made.reused) == (1, 6)
  assert len(sets.records(copy / "pixels")) == 7


def test_of_equal_clips_the_set_keeps_what_it_holds(pixels, tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  clip = scenes.texture(9, speed=2)
  write.write_video(folder / "m.mp4", clip, 8.0)
  (folder / "m.txt").write_text("a caption")
  config = sets.change(pixels, "ingest", near_duplicates=True)
  first = run.preprocess(config, folder, out)
  # They come before it, and would have been taken at first.
  shutil.copy(folder / "m.mp4", folder / "a.mp4")
  write.write_video(folder / "b.mp4", clip[:, ::2, ::2], 8.0)
  second = run.preprocess(config, folder, out)
  assert (first.made.written, second.made.written, second.made.reused) == (1, 0, 1)
  assert [os.path.basename(r["path"]) for r in sets.table(out, "clips.parquet")] == [
    "m.mp4"
  ]
  reasons = [(r["path"][-5:], r["reason"]) for r in sets.table(out, "rejects.parquet")]
  assert reasons == [("a.mp4", "duplicate"), ("b.mp4", "near_duplicate")]


def test_what_looks_like_a_clip_that_failed_is_encoded_by_the_next_run(pixels, tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  clip = scenes.texture(9, speed=2)
  write.write_video(folder / "a.mp4", clip, 8.0)
  write.write_video(folder / "b.mp4", clip[:, ::2, ::2], 8.0)
  config = sets.change(pixels, "ingest", near_duplicates=True)
  run.preprocess(config, folder, out)
  shutil.rmtree(out / "pixels")
  stat = (folder / "a.mp4").stat()
  (folder / "a.mp4").write_bytes(bytes(stat.st_size))
  os.utime(folder / "a.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
  outcome = run.preprocess(config, folder, out)
  assert (outcome.counts.clips, outcome.made.written) == (1, 0)
  said = "1 replacing failed clips: run again to encode them"
  assert said in summary.text(outcome, config)
  outcome = run.preprocess(config, folder, out)
  assert (outcome.counts.clips, outcome.made.written) == (1, 1)
  assert said not in summary.text(outcome, config)


def test_changed_captions_are_refused_or_made_anew(pixels, media, copy, tmp_path):
  changed = tmp_path / "in"
  shutil.copytree(media, changed)
  (changed / "c.txt").write_text("something else")
  (changed / "-d.gif").unlink()
  before = sets.files(copy)
  with pytest.raises(ValueError, match=r"pixels.*3 records.*--overwrite"):
    run.preprocess(pixels, changed, copy)
  assert sets.files(copy) == before  # the tables of the set that is there, too
  outcome = run.preprocess(pixels, changed, copy, overwrite=True)
  assert (outcome.made.written, outcome.made.reused) == (2, 3)
  assert not verify.verify(copy / "pixels").faults
  keys = sorted(row["key"] for row in sets.table(copy, "clips.parquet"))
  assert sorted(record.key for record in sets.records(copy / "pixels")) == keys
  captions = [record.caption for record in sets.records(copy / "pixels")]
  assert captions.count("something else") == 2


def test_limits_change_without_another_look_at_the_files(pixels, media, copy):
  longer = sets.change(pixels, "media", max_frames=21)
  with pytest.raises(ValueError, match=r"no longer wanted.*--overwrite"):
    run.preprocess(longer, media, copy)
  outcome = run.preprocess(longer, media, copy, overwrite=True)
  assert outcome.examined == 0
  assert outcome.counts.clips == 5
  assert (outcome.made.written, outcome.made.reused) == (1, 4)
  assert max(len(record.clip) for record in sets.records(copy / "pixels")) == 21


def test_other_text_settings_are_refused_or_made_anew(done, config, media, tmp_path):
  folder = tmp_path / "out"
  shutil.copytree(done[1], folder)
  other = sets.change(config, "text", seed=5)
  with pytest.raises(ValueError, match=r"config\.text\.seed 0 -> 5.*--overwrite"):
    run.preprocess(other, media, folder)
  before = schema.Metadata.load(folder / "latents")
  outcome = run.preprocess(other, media, folder, overwrite=True)
  assert (outcome.examined, outcome.made.written) == (0, 6)
  after = schema.Metadata.load(folder / "latents")
  assert before.text != after.text
  assert before.autoencoder == after.autoencoder


def test_pixels_keep_the_heaviest_of_several_captions(pixels, media, tmp_path):
  shutil.copyfile(media / "a.mp4", tmp_path / "a.mp4")
  manifest = tmp_path / "m.jsonl"

  def run_with(weights, **options):
    row = {"path": "a.mp4", "captions": ["long ago", "far away"]}
    manifest.write_text(json.dumps(row | {"caption_weights": weights}))
    made = run.preprocess(pixels, manifest, tmp_path / "out", **options).made
    (record,) = sets.records(tmp_path / "out" / "pixels")
    return made.written, made.reused, record.caption

  assert run_with([1, 3]) == (1, 0, "far away")
  assert run_with([1, 3]) == (0, 1, "far away")
  assert run_with([1, 2]) == (0, 1, "far away")
  with pytest.raises(ValueError, match="another caption"):
    run_with([3, 1])
  assert run_with([3, 1], overwrite=True) == (1, 0, "long ago")
