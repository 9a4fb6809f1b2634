"""Files in, data sets out: nothing lost, nothing twice, nothing mixed."""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from tests.preprocess import scenes
from tests.preprocess.files import moving
from video_dit import lock
from video_dit.data import reader, schema, verify
from video_dit.media import decode, write
from video_dit.models.autoencoder import store
from video_dit.models.text import encoder as text_lib
from video_dit.preprocess import run, summary


def _table(folder: pathlib.Path, name: str) -> list[dict]:
  return pyarrow.parquet.read_table(folder / name).to_pylist()


def _records(folder: pathlib.Path, split: str = "train") -> list:
  data = reader.Dataset(folder, split)
  return [data[i] for i in range(len(data))]


def _files(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """All files but those of work in progress."""
  found = (path for path in folder.rglob("*") if path.is_file())
  return {p: p.read_bytes() for p in found if "work" not in p.relative_to(folder).parts}


def _change(config, section: str, **values):
  part = dataclasses.replace(getattr(config, section), **values)
  return dataclasses.replace(config, **{section: part})


@pytest.fixture(scope="module")
def done(config, media, tmp_path_factory):
  """A finished run and its folder; not to be changed."""
  folder = tmp_path_factory.mktemp("run") / "out"
  return run.preprocess(config, media, folder), folder


@pytest.fixture(scope="module")
def pixels(config):
  """The config that keeps pixels, where the encoders make no difference."""
  return dataclasses.replace(config, objective="reconstruction")


@pytest.fixture(scope="module")
def done_pixels(pixels, media, tmp_path_factory):
  """A finished run of pixels, and its folder; not to be changed."""
  folder = tmp_path_factory.mktemp("run") / "out"
  return run.preprocess(pixels, media, folder), folder


@pytest.fixture
def copy(done_pixels, tmp_path):
  """A copy of the finished run's folder."""
  shutil.copytree(done_pixels[1], tmp_path / "out")
  return tmp_path / "out"


def test_every_file_is_a_clip_or_a_named_reject(done, media):
  outcome, folder = done
  clips, rejects = _table(folder, "clips.parquet"), _table(folder, "rejects.parquet")
  names = [os.path.relpath(row["path"], media) for row in clips]
  assert sorted(names) == ["-d.gif", "a.mp4", "b.mp4", "c.mp4", "c.mp4", "e 'q' 🐈.png"]
  reasons = {os.path.relpath(row["path"], media): row["reason"] for row in rejects}
  assert reasons == {
    "page.mp4": "not_media",
    "short.mp4": "too_short",
    "sub/again.mp4": "duplicate",
    "torn.mp4": "unreadable",
  }
  assert all(row["message"] for row in rejects)
  (duplicate,) = (row for row in rejects if row["reason"] == "duplicate")
  assert "a.mp4" in duplicate["message"]
  counts = outcome.counts
  assert (counts.lines, counts.kept, counts.extra) == (9, 5, 1)
  assert (counts.clips, counts.rejects) == (6, 4)
  assert outcome.examined == 9
  assert outcome.made.written == 6


def test_long_videos_are_cut_and_the_rest_is_counted(done):
  rows = [r for r in _table(done[1], "clips.parquet") if r["path"].endswith("c.mp4")]
  assert [row["first_frame"] for row in rows] == [0, 9]
  assert [row["frames"] for row in rows] == [9, 9]
  assert [row["frames_dropped"] for row in rows] == [0, 3]
  assert [row["start_seconds"] for row in rows] == [0.0, 9 / 8]
  assert done[0].counts.frames_dropped == 3


def test_records_are_the_frozen_encodings_of_the_files(done, config):
  _, folder = done
  autoencoder = store.load(config.autoencoder.checkpoint)
  text = text_lib.TextEncoder.load(config.text, folder / "text")
  rows = {row["key"]: row for row in _table(folder, "clips.parquet")}
  records = _records(folder / "latents")
  assert sorted(record.key for record in records) == sorted(rows)
  for record in records:
    row = rows[record.key]
    size = row["height"], row["width"]
    frames = decode.frames(row["path"], config.media, size=size)
    last = row["first_frame"] + row["frames"]
    clip_FHWC = np.stack(list(itertools.islice(frames, row["first_frame"], last)))
    expected = autoencoder.encode_batch(np.stack([clip_FHWC]))[0]
    np.testing.assert_allclose(record.latent, expected, rtol=2e-3, atol=2e-3)
    extent = row["latent_frames"], row["latent_height"], row["latent_width"]
    assert record.latent.shape == (*extent, 4)
    np.testing.assert_array_equal(record.text, text.encode([row["caption"]])[0])
    assert (record.caption, record.frames) == (row["caption"], row["frames"])
    assert record.frames_per_second == (8.0 if record.frames > 1 else 0.0)


def test_metadata_names_the_encoders(done, config):
  metadata = schema.Metadata.load(done[1] / "latents")
  autoencoder = store.load(config.autoencoder.checkpoint)
  text = text_lib.TextEncoder.load(config.text, metadata.text_path)
  reader.check(metadata, autoencoder.fingerprint, text.fingerprint)
  np.testing.assert_array_equal(metadata.empty, text.encode([""])[0])
  assert metadata.autoencoder_path == config.autoencoder.checkpoint
  assert (metadata.channels, metadata.space, metadata.time) == (4, 8, 4)


def test_summary_tells_all(done, config):
  text = summary.text(done[0], config)
  for part in (
    "9 (9 examined now)",
    "9 lines + 1 more from long videos = 6 clips + 4 rejects",
    "1 image, 5 videos; 6 train",
    "no validation split",
    "duplicate",
    "6 written, 0 already present",
    "rows of 64 tokens",
    "3 left over after the last clip",
    "out/report.html",
  ):
    assert part in text, text


def test_the_report_of_a_run_has_pictures(done_pixels):
  text = (done_pixels[1] / "report.html").read_text(encoding="utf-8")
  # Of the six clips, and of the duplicate.
  assert text.count("data:image/jpeg;base64,") == 7


def test_second_run_does_nothing(done_pixels, pixels, media, copy):
  before = {p: p.stat().st_mtime_ns for p in (copy / "pixels").glob("*array_record*")}
  outcome = run.preprocess(pixels, media, copy)
  assert outcome.examined == 0
  assert (outcome.made.written, outcome.made.reused) == (0, 6)
  assert before == {p: p.stat().st_mtime_ns for p in before}
  for name in ("clips.parquet", "rejects.parquet"):
    assert _table(copy, name) == _table(done_pixels[1], name)


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
  assert len(_records(copy / "pixels")) == 7


def test_of_equal_clips_the_set_keeps_what_it_holds(pixels, tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  clip = scenes.texture(9, speed=2)
  write.write_video(folder / "m.mp4", clip, 8.0)
  (folder / "m.txt").write_text("a caption")
  config = _change(pixels, "ingest", near_duplicates=True)
  first = run.preprocess(config, folder, out)
  # They come before it, and would have been taken at first.
  shutil.copy(folder / "m.mp4", folder / "a.mp4")
  write.write_video(folder / "b.mp4", clip[:, ::2, ::2], 8.0)
  second = run.preprocess(config, folder, out)
  assert (first.made.written, second.made.written, second.made.reused) == (1, 0, 1)
  assert [os.path.basename(r["path"]) for r in _table(out, "clips.parquet")] == ["m.mp4"]
  reasons = [(r["path"][-5:], r["reason"]) for r in _table(out, "rejects.parquet")]
  assert reasons == [("a.mp4", "duplicate"), ("b.mp4", "near_duplicate")]


def test_what_looks_like_a_clip_that_failed_is_encoded_by_the_next_run(pixels, tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  clip = scenes.texture(9, speed=2)
  write.write_video(folder / "a.mp4", clip, 8.0)
  write.write_video(folder / "b.mp4", clip[:, ::2, ::2], 8.0)
  config = _change(pixels, "ingest", near_duplicates=True)
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
  before = _files(copy)
  with pytest.raises(ValueError, match=r"pixels.*3 records.*--overwrite"):
    run.preprocess(pixels, changed, copy)
  assert _files(copy) == before  # the tables of the set that is there, too
  outcome = run.preprocess(pixels, changed, copy, overwrite=True)
  assert (outcome.made.written, outcome.made.reused) == (2, 3)
  assert not verify.verify(copy / "pixels").faults
  keys = sorted(row["key"] for row in _table(copy, "clips.parquet"))
  assert sorted(record.key for record in _records(copy / "pixels")) == keys
  captions = [record.caption for record in _records(copy / "pixels")]
  assert captions.count("something else") == 2


def test_limits_change_without_another_look_at_the_files(pixels, media, copy):
  longer = _change(pixels, "media", max_frames=21)
  with pytest.raises(ValueError, match=r"no longer wanted.*--overwrite"):
    run.preprocess(longer, media, copy)
  outcome = run.preprocess(longer, media, copy, overwrite=True)
  assert outcome.examined == 0
  assert outcome.counts.clips == 5
  assert (outcome.made.written, outcome.made.reused) == (1, 4)
  assert max(len(record.clip) for record in _records(copy / "pixels")) == 21


def test_a_caption_beyond_float16_costs_its_clips_and_is_named(
  config, media, tmp_path, monkeypatch
):
  encode = text_lib.TextEncoder._encode

  def scaled(caption, encoder, rows, *sizes):
    out_BLE = np.array(encode(encoder, rows, *sizes))
    for row, ids in enumerate(rows):
      out_BLE[row] *= 1e6 if ids == encoder.tokens(caption) else 1.0
    return out_BLE

  def scale(caption):
    monkeypatch.setattr(
      text_lib.TextEncoder, "_encode", lambda *args: scaled(caption, *args)
    )

  scale("clip c, 21 frames")
  outcome = run.preprocess(config, media, tmp_path / "out")
  assert (outcome.made.written, outcome.made.failed) == (4, 2)
  assert {r.caption for r in _records(outcome.folder)}.isdisjoint({"clip c, 21 frames"})
  reasons = {r["reason"] for r in _table(tmp_path / "out", "rejects.parquet")}
  assert "not_finite" in reasons
  scale("")
  with pytest.raises(
    ValueError, match=r"text: float16 cannot hold the text encoder's values of the"
  ):
    run.preprocess(config, media, tmp_path / "none")


def test_other_text_settings_are_refused_or_made_anew(done, config, media, tmp_path):
  folder = tmp_path / "out"
  shutil.copytree(done[1], folder)
  other = _change(config, "text", seed=5)
  with pytest.raises(ValueError, match=r"config\.text\.seed 0 -> 5.*--overwrite"):
    run.preprocess(other, media, folder)
  before = schema.Metadata.load(folder / "latents")
  outcome = run.preprocess(other, media, folder, overwrite=True)
  assert (outcome.examined, outcome.made.written) == (0, 6)
  after = schema.Metadata.load(folder / "latents")
  assert before.text != after.text
  assert before.autoencoder == after.autoencoder


def test_pixels_for_the_autoencoder_and_a_data_set_as_input(pixels, media, tmp_path):
  pixels = _change(pixels, "media", validation_fraction=0.4)
  outcome = run.preprocess(pixels, media, tmp_path / "a")
  assert outcome.folder == tmp_path / "a" / "pixels"
  assert outcome.counts.splits["validation"] > 0
  splits = {split: _records(outcome.folder, split) for split in outcome.counts.splits}
  rows = {row["key"]: row for row in _table(tmp_path / "a", "clips.parquet")}
  assert sum(len(records) for records in splits.values()) == len(rows) == 6
  for split, records in splits.items():
    for record in records:
      row = rows[record.key]
      assert row["split"] == split
      size = row["height"], row["width"]
      assert record.clip.shape == (row["frames"], *size, 3)
      frames = list(decode.frames(row["path"], pixels.media, size=size))
      last = row["first_frame"] + row["frames"]
      np.testing.assert_array_equal(record.clip, frames[row["first_frame"] : last])
  # A TFDS data set, this one, is an input like any other; its splits stay.
  again = run.preprocess(pixels, f"tfds:{outcome.folder}", tmp_path / "b")
  assert again.counts.splits == outcome.counts.splits
  captions = sorted(r.caption for s in splits for r in _records(again.folder, s))
  assert captions == sorted(r.caption for records in splits.values() for r in records)


def test_file_that_breaks_after_ingest_moves_to_the_rejects(pixels, media, tmp_path):
  folder = tmp_path / "in"
  shutil.copytree(media, folder)
  out = tmp_path / "out"
  run.preprocess(pixels, folder, out)
  shutil.rmtree(out / "pixels")
  for name in ("a.mp4", "c.mp4"):
    stat = (folder / name).stat()
    (folder / name).write_bytes(bytes(stat.st_size))
    os.utime(folder / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
  for written in (3, 0):
    outcome = run.preprocess(pixels, folder, out)
    assert outcome.made.written == written
    counts = outcome.counts
    assert (counts.clips, counts.rejects) == (3, 7)
    assert counts.lines + counts.extra == 10
  broken = [
    r for r in _table(out, "rejects.parquet") if r["key"] and r["reason"] != "duplicate"
  ]
  assert sorted(os.path.basename(r["path"]) for r in broken) == ["a.mp4", *["c.mp4"] * 2]
  assert len(_records(out / "pixels")) == 3


def test_clips_of_several_sizes_and_captions_are_encoded_in_few_shapes(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  rows = []
  for i in range(8):
    # All but one 64x56, so that they share its buffer.
    size = (64, 48) if i == 3 else (64, 56)
    write.write_video(folder / f"{i}.png", moving(1, *size, i), 8.0)
    rows.append({"path": f"{i}.png", "captions": ["long ago", f"number {i}"]})
    rows[-1] |= {"caption_weights": [1, 3]}
  (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
  # One token of the transformer is 16 x 16 pixels; latents need 8 x 8.
  config = _change(config, "media", max_pixels=64 * 64)
  config = _change(config, "dit", patch=(1, 1, 1))
  outcome = run.preprocess(config, folder / "m.jsonl", tmp_path / "out")
  made = outcome.made
  assert (made.written, made.shapes, made.captions_encoded) == (8, 1, 9)
  assert 0 < made.wasted < 0.1
  assert "1 shapes compiled" in summary.text(outcome, config)
  autoencoder = store.load(config.autoencoder.checkpoint)
  paths = {r["key"]: r["path"] for r in _table(tmp_path / "out", "clips.parquet")}
  sizes = set()
  for record in _records(outcome.folder):
    sizes.add((record.height, record.width))
    (pixels_HWC,) = decode.frames(paths[record.key], config.media)
    expected = autoencoder.encode(pixels_HWC[None])
    np.testing.assert_allclose(record.latent, expected, rtol=2e-3, atol=2e-3)
    assert record.caption.startswith("number") and record.more_captions == ("long ago",)
    share = record.caption_weights / record.caption_weights.sum()
    np.testing.assert_allclose(share, [0.75, 0.25])
  assert sizes == {(64, 48), (64, 56)}
  again = run.preprocess(config, folder / "m.jsonl", tmp_path / "out").made
  assert (again.written, again.reused) == (0, 8)


def test_pixels_keep_the_heaviest_of_several_captions(pixels, media, tmp_path):
  shutil.copyfile(media / "a.mp4", tmp_path / "a.mp4")
  manifest = tmp_path / "m.jsonl"

  def run_with(weights, **options):
    row = {"path": "a.mp4", "captions": ["long ago", "far away"]}
    manifest.write_text(json.dumps(row | {"caption_weights": weights}))
    made = run.preprocess(pixels, manifest, tmp_path / "out", **options).made
    (record,) = _records(tmp_path / "out" / "pixels")
    return made.written, made.reused, record.caption

  assert run_with([1, 3]) == (1, 0, "far away")
  assert run_with([1, 3]) == (0, 1, "far away")
  assert run_with([1, 2]) == (0, 1, "far away")
  with pytest.raises(ValueError, match="another caption"):
    run_with([3, 1])
  assert run_with([3, 1], overwrite=True) == (1, 0, "long ago")


def test_manifest_with_cuts_and_splits(pixels, media, tmp_path):
  manifest = media / "m.csv"
  lines = [
    "file,text,split,start,end",
    "c.mp4,first,train,0,1.125",
    "c.mp4,rest,val,1.125,",
    "c.mp4,first again,train,0,1.125",
    "gone.mp4,none,,,",
    "../in2.mp4,none,,,",
    "a.mp4,beyond,train,50,",
  ]
  manifest.write_text("\n".join(lines))
  try:
    outcome = run.preprocess(pixels, manifest, tmp_path / "out")
  finally:
    manifest.unlink()
  reasons = {"duplicate": 1, "missing": 1, "outside": 1, "too_short": 1}
  assert outcome.counts.reasons == reasons
  (train,) = _records(outcome.folder, "train")
  (validation,) = _records(outcome.folder, "validation")
  assert (train.caption, validation.caption) == ("first", "rest")
  assert validation.start_seconds == 1.125
  assert train.key != validation.key


def test_no_captions_at_all(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.png", moving(1, 32, 32, 0), 8.0)
  outcome = run.preprocess(config, folder, tmp_path / "out")
  assert (outcome.counts.captions_empty, outcome.made.written) == (1, 1)
  (record,) = _records(outcome.folder)
  np.testing.assert_array_equal(record.text, schema.Metadata.load(outcome.folder).empty)


def test_enormous_captions_are_cut_and_counted(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.png", moving(1, 32, 32, 0), 8.0)
  (folder / "a.txt").write_text("very long words " * 5000)
  outcome = run.preprocess(config, folder, tmp_path / "out")
  assert outcome.made.captions_cut == 1
  assert "1 cut at config.text.max_tokens" in summary.text(outcome, config)
  (record,) = _records(outcome.folder)
  assert record.text.shape == (config.text.max_tokens, config.text.width)


def test_nothing_usable_is_no_error_of_ours(config, tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.mp4").write_text("no")
  outcome = run.preprocess(config, tmp_path / "in", tmp_path / "out")
  assert (outcome.counts.clips, outcome.counts.rejects) == (0, 1)
  assert "a.mp4" in _table(tmp_path / "out", "rejects.parquet")[0]["path"]


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"checkpoint": ""}, r"checkpoint is empty.*reconstruction"),
    ({"checkpoint": "/nowhere"}, r"/nowhere.*neither autoencoder.json nor a published"),
    ({"channels": 8}, r"channels=8, but .* has channels=4"),
  ],
)
def test_wrong_autoencoder_is_refused_first(config, media, tmp_path, values, message):
  with pytest.raises(ValueError, match=message):
    run.preprocess(_change(config, "autoencoder", **values), media, tmp_path / "out")
  assert not (tmp_path / "out").exists()
