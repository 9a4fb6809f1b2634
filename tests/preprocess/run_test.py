"""Files in, data sets out: nothing lost, nothing twice, nothing mixed."""

import dataclasses
import itertools
import json
import os
import shutil

import jax
import numpy as np
import pytest

from tests.preprocess import sets
from tests.preprocess.files import moving
from video_dit.data import reader, schema
from video_dit.media import decode, write
from video_dit.models.autoencoder import store
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.models.text import encoder as text_lib
from video_dit.parallel import mesh as mesh_lib
from video_dit.preprocess import captions, run, summary


def test_every_file_is_a_clip_or_a_named_reject(done, media):
  outcome, folder = done
  clips, rejects = (
    sets.table(folder, "clips.parquet"),
    sets.table(folder, "rejects.parquet"),
  )
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
  rows = [r for r in sets.table(done[1], "clips.parquet") if r["path"].endswith("c.mp4")]
  assert [row["first_frame"] for row in rows] == [0, 9]
  assert [row["frames"] for row in rows] == [9, 9]
  assert [row["frames_dropped"] for row in rows] == [0, 3]
  assert [row["start_seconds"] for row in rows] == [0.0, 9 / 8]
  assert done[0].counts.frames_dropped == 3


def test_records_are_the_frozen_encodings_of_the_files(done, config):
  _, folder = done
  autoencoder = store.load(config.autoencoder.checkpoint)
  text = text_lib.TextEncoder.load(config.text, folder / "text")
  rows = {row["key"]: row for row in sets.table(folder, "clips.parquet")}
  records = sets.records(folder / "latents")
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
    "random weights, which know no meanings",
  ):
    assert part in text, text
  found = done[0].packing
  assert f"{found['rows']:,} rows of 64 tokens, {found['fill']:.1%} full" in text


def test_the_report_of_a_run_has_pictures(done_pixels):
  text = (done_pixels[1] / "report.html").read_text(encoding="utf-8")
  # Of the six clips, and of the duplicate.
  assert text.count("data:image/jpeg;base64,") == 7


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
  assert {r.caption for r in sets.records(outcome.folder)}.isdisjoint(
    {"clip c, 21 frames"}
  )
  reasons = {r["reason"] for r in sets.table(tmp_path / "out", "rejects.parquet")}
  assert "not_finite" in reasons
  scale("")
  with pytest.raises(
    ValueError, match=r"text: float16 cannot hold the text encoder's values of the"
  ):
    run.preprocess(config, media, tmp_path / "none")


def test_pixels_for_the_autoencoder_and_a_data_set_as_input(pixels, media, tmp_path):
  pixels = sets.change(pixels, "media", validation_fraction=0.4)
  outcome = run.preprocess(pixels, media, tmp_path / "a")
  assert outcome.folder == tmp_path / "a" / "pixels"
  assert outcome.counts.splits["validation"] > 0
  splits = {split: sets.records(outcome.folder, split) for split in outcome.counts.splits}
  rows = {row["key"]: row for row in sets.table(tmp_path / "a", "clips.parquet")}
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
  captions = sorted(r.caption for s in splits for r in sets.records(again.folder, s))
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
    r
    for r in sets.table(out, "rejects.parquet")
    if r["key"] and r["reason"] != "duplicate"
  ]
  assert sorted(os.path.basename(r["path"]) for r in broken) == ["a.mp4", *["c.mp4"] * 2]
  assert len(sets.records(out / "pixels")) == 3


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
  config = sets.change(config, "media", max_pixels=64 * 64)
  config = sets.change(config, "dit", patch=(1, 1, 1))
  outcome = run.preprocess(config, folder / "m.jsonl", tmp_path / "out")
  made = outcome.made
  assert (made.written, made.shapes, made.captions_encoded) == (8, 1, 9)
  assert 0 < made.wasted < 0.1
  assert "1 shapes compiled" in summary.text(outcome, config)
  autoencoder = store.load(config.autoencoder.checkpoint)
  paths = {r["key"]: r["path"] for r in sets.table(tmp_path / "out", "clips.parquet")}
  sizes = set()
  for record in sets.records(outcome.folder):
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


def test_several_devices_waste_no_more_than_one_and_write_the_same(
  config, tmp_path, monkeypatch
):
  encode, used = Frozen.encode_batch, set()

  def noted(self, *args):
    used.update(jax.tree.leaves(self._params)[0].devices())
    return encode(self, *args)

  monkeypatch.setattr(Frozen, "encode_batch", noted)
  folder = tmp_path / "in"
  folder.mkdir()
  for i in range(7):
    size = (64, 48) if i < 2 else (64, 56)
    write.write_video(folder / f"{i}.mp4", moving(9 if i % 3 else 17, *size, i), 8.0)
  config = sets.change(config, "media", max_pixels=64 * 64)
  mesh = mesh_lib.make(jax.devices()[:4], (4, 1, 1, 1))
  several = run.preprocess(config, folder, tmp_path / "several", mesh=mesh)
  assert used == set(jax.devices()[:4])
  alone = run.preprocess(config, folder, tmp_path / "alone")
  assert several.made.written == alone.made.written > 7
  assert several.made.wasted <= alone.made.wasted < 0.1
  assert 0 <= several.made.waiting <= 1
  records = ({r.key: r for r in sets.records(o.folder)} for o in (several, alone))
  found, expected = records
  assert found.keys() == expected.keys()
  for key, record in found.items():
    np.testing.assert_allclose(record.latent, expected[key].latent, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(record.text, expected[key].text)


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
  (train,) = sets.records(outcome.folder, "train")
  (validation,) = sets.records(outcome.folder, "validation")
  assert (train.caption, validation.caption) == ("first", "rest")
  assert validation.start_seconds == 1.125
  assert train.key != validation.key


def test_no_captions_at_all(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.png", moving(1, 32, 32, 0), 8.0)
  outcome = run.preprocess(config, folder, tmp_path / "out")
  assert (outcome.counts.captions_empty, outcome.made.written) == (1, 1)
  (record,) = sets.records(outcome.folder)
  np.testing.assert_array_equal(record.text, schema.Metadata.load(outcome.folder).empty)


def test_enormous_captions_are_cut_and_counted(config, tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.png", moving(1, 32, 32, 0), 8.0)
  (folder / "a.txt").write_text("very long words " * 5000)
  outcome = run.preprocess(config, folder, tmp_path / "out")
  assert outcome.made.captions_cut == 1
  assert "1 cut at config.text.max_tokens" in summary.text(outcome, config)
  (record,) = sets.records(outcome.folder)
  assert record.text.shape == (config.text.max_tokens, config.text.width)


def test_nothing_usable_is_no_error_of_ours(config, tmp_path):
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "a.mp4").write_text("no")
  outcome = run.preprocess(config, tmp_path / "in", tmp_path / "out")
  assert (outcome.counts.clips, outcome.counts.rejects) == (0, 1)
  assert "a.mp4" in sets.table(tmp_path / "out", "rejects.parquet")[0]["path"]


def test_a_text_encoder_of_other_sizes_is_refused_first(config, done, media, tmp_path):
  given = {"checkpoint": str(done[1] / "text"), "tokenizer": str(done[1] / "text")}
  text = dataclasses.replace(config.text, **given)
  captions.check(text)
  wrong = dataclasses.replace(text, width=2 * text.width)
  with pytest.raises(ValueError, match=r"has width=\d+, the config \d+"):
    run.preprocess(dataclasses.replace(config, text=wrong), media, tmp_path / "out")
  assert not (tmp_path / "out").exists()


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
    run.preprocess(sets.change(config, "autoencoder", **values), media, tmp_path / "out")
  assert not (tmp_path / "out").exists()
