"""Real files, whole and broken, end as their manifest says."""

import dataclasses
import json

import pyarrow.parquet

from video_dit.data import reader
from video_dit.preprocess import run


def _is_good(row: dict) -> bool:
  """What the manifest says the file deserves; it says nothing of good ones."""
  return row.get("expect", "accept").split()[0].rstrip(":") in ("accept", "use")


def test_every_shared_file_ends_as_its_manifest_says(config, shared, tmp_path):
  (tmp_path / "media").symlink_to(shared / "media")
  text = (shared / "media" / "manifest.jsonl").read_text(encoding="utf-8")
  rows = [json.loads(line) for line in text.splitlines()]
  manifest = tmp_path / "manifest.jsonl"
  with manifest.open("w") as file:
    for row in rows:
      line = {"file": f"media/{row['file']}", "caption": row["caption"]}
      if "expect" not in row and row.get("duration", 0) > 1:
        line["end_seconds"] = 0.3  # The decoder's own tests go to the end.
      file.write(json.dumps(line) + "\n")
  media = dataclasses.replace(config.media, min_frames=1, workers=2)
  pixels = dataclasses.replace(config, objective="reconstruction", media=media)
  outcome = run.preprocess(pixels, manifest, tmp_path / "out")
  clips = pyarrow.parquet.read_table(tmp_path / "out" / "clips.parquet").to_pylist()
  rejects = pyarrow.parquet.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
  root = str(tmp_path / "media") + "/"
  kept = {row["path"].removeprefix(root) for row in clips}
  reasons = {row["path"].removeprefix(root): row["reason"] for row in rejects}
  good = {row["file"] for row in rows if _is_good(row)}
  assert kept == good, (kept ^ good, reasons)
  assert set(reasons) == {row["file"] for row in rows} - good
  assert reasons["broken/zero_bytes.mp4"] == "empty"
  assert reasons["broken/audio_only.mp4"] == "no_video"
  assert reasons["broken/truncated_moov_first.mp4"] == "truncated"
  assert reasons["broken/bomb_65536x65536_palette.png"] == "too_large"
  images = {row["path"].removeprefix(root) for row in clips if row["kind"] == "image"}
  assert "broken/one_frame.mp4" in images
  assert outcome.counts.lines == len(rows)
  assert len(reader.Dataset(outcome.folder, "train")) == outcome.counts.clips
