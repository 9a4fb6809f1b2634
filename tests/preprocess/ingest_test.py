"""Clips are chosen by numbers that stay: limits change and nothing is decoded again."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from tests.preprocess import scenes
from video_dit import config as config_lib
from video_dit.media import write
from video_dit.preprocess import examine, ingest, sources
from video_dit.preprocess import facts as facts_lib

RATE = 12.0
CONFIG = config_lib.Config(
  name="ingest",
  objective="reconstruction",
  autoencoder=config_lib.Autoencoder(time=1),
  media=config_lib.Media(
    frames_per_second=RATE, max_frames=49, timeout_seconds=60.0, workers=1
  ),
)


class _Here:
  """Does jobs in this process, which starts sooner than others."""

  def run(self, jobs, limit):
    del limit
    return ((job, examine.work(job)) for _, job in jobs)


def _with(**limits) -> config_lib.Config:
  limits = dataclasses.replace(CONFIG.ingest, **limits)
  return dataclasses.replace(CONFIG, ingest=limits)


def _ingest(folder: pathlib.Path, out: pathlib.Path, config=CONFIG):
  """Names of the clips, reasons by name, and how many files were looked at."""
  out.mkdir(exist_ok=True)
  media = config.media
  with facts_lib.Facts(out / "facts.sqlite") as facts:
    facts.set_lines(sources.lines(folder), media, config.ingest)
    looked_at = ingest.examine_files(facts, media, _Here(), config.ingest)
    ingest.tabulate(facts, config, out)
  clips, rejects = _rows(out, ingest.CLIPS), _rows(out, ingest.REJECTS)
  return clips, rejects, looked_at


def _rows(out: pathlib.Path, name: str) -> list[dict]:
  rows = pyarrow.parquet.read_table(out / name).to_pylist()
  return [row | {"name": pathlib.Path(row["path"]).stem} for row in rows]


def _reasons(rejects: list[dict]) -> dict[str, str]:
  return {row["name"]: row["reason"] for row in rejects}


def _by_name(rows: list[dict]) -> dict[str, dict]:
  return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> pathlib.Path:
  """Clips of two seconds; not to be changed."""
  folder = tmp_path_factory.mktemp("scenes") / "in"
  folder.mkdir()
  still = scenes.texture(24, speed=0)
  moving = scenes.texture(24, seed=1, speed=2)
  black = np.zeros_like(moving)
  clips = {
    "moving": moving,
    "fast": scenes.texture(24, seed=2, speed=6),
    "still": still,
    "half still": np.concatenate([moving[:12], np.repeat(moving[11:12], 12, axis=0)]),
    "black": black,
    "half black": np.concatenate([moving[:12], black[:12]]),
    "blurred": scenes.blurred(moving, 4.0),
    "titled": scenes.titled(moving, "all that is said here\nis written over it"),
    "wide": scenes.texture(24, seed=3, size=(48, 240)),
    "short": scenes.texture(6, seed=4),
    "picture": scenes.texture(1, seed=5),
  }
  for name, clip in clips.items():
    suffix = ".png" if len(clip) == 1 else ".mp4"
    write.write_video(folder / f"{name}{suffix}", clip, RATE)
    (folder / f"{name}.txt").write_text(f"a clip that is {name}")
  (folder / "short.txt").unlink()
  return folder


@pytest.fixture(scope="module")
def measured(media, tmp_path_factory):
  """The rows of a run without limits, and its folder; not to be changed."""
  out = tmp_path_factory.mktemp("scenes") / "out"
  clips, rejects, looked_at = _ingest(media, out)
  assert (rejects, looked_at) == ([], 11)
  return _by_name(clips), out


def test_numbers_say_what_clips_are_like(measured):
  rows, _ = measured
  for name, row in rows.items():
    black = {"black": 1.0, "half black": 0.5}.get(name, 0.0)
    assert row["black_share"] == pytest.approx(black), name
    assert row["black_seconds"] == pytest.approx(2 * black), name
    if name != "picture":
      # Of seven spans between samples, four a second, that with the change is not still.
      frozen = {"black": 7, "still": 7, "half black": 3, "half still": 3}.get(name, 0)
      assert row["frozen_share"] == pytest.approx(frozen / 7), name
      assert row["frozen_seconds"] == pytest.approx(frozen / 4), name
  assert rows["picture"]["motion"] is rows["picture"]["frozen_share"] is None
  # 2 pixels a frame of 120, 12 frames a second; what repeats is the picture's edge.
  assert rows["moving"]["motion"] == pytest.approx(0.2, rel=0.2)
  assert rows["fast"]["motion"] == pytest.approx(0.6, rel=0.2)
  assert rows["still"]["motion"] < 0.01
  assert rows["blurred"]["sharpness"] < 0.2 * rows["moving"]["sharpness"]
  assert rows["titled"]["text_share"] > 0.1
  others = [row["text_share"] for name, row in rows.items() if name != "titled"]
  assert max(others) < 0.02


def test_what_files_say_and_what_they_hold_is_kept(measured):
  row = measured[0]["moving"]
  assert (row["declared_frames"], row["decoded_frames"]) == (24, 24)
  assert row["decoded_seconds"] == pytest.approx(2.0)
  assert (row["rotation"], row["bit_depth"], row["audio"]) == (0, 8, False)
  assert row["shot"] == 0 and len(row["hashes"]) == 4


def test_what_swings_in_time_with_the_measures_is_not_frozen(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  texture = scenes.texture(1)[0]
  swing = [np.roll(texture, 4 * (i % 3), axis=1) for i in range(24)]
  write.write_video(folder / "a.mp4", np.stack(swing), RATE)
  clips, _, _ = _ingest(folder, tmp_path / "out", _with(max_frozen=0.5))
  assert clips[0]["frozen_share"] == 0 and clips[0]["motion"] > 0.1


def test_the_motion_of_a_clip_of_one_measure_without_a_next_frame_is_not_known(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.mp4", scenes.texture(52, speed=5), RATE)
  (first, second), _, _ = _ingest(folder, tmp_path / "out")
  assert first["motion"] > 0 and second["motion"] is None


@pytest.mark.parametrize(
  ("limits", "reason", "rejected"),
  [
    ({"max_black": 0.7}, "black", {"black"}),
    ({"max_black_seconds": 0.5}, "black_seconds", {"black", "half black"}),
    ({"max_frozen": 0.8}, "frozen", {"black", "still"}),
    (
      {"max_frozen_seconds": 0.6},
      "frozen_seconds",
      {"black", "still", "half still", "half black"},
    ),
    ({"min_motion": 0.05}, "motion", {"still", "black"}),
    ({"max_text": 0.08}, "text", {"titled"}),
    ({"max_aspect": 4.0}, "aspect", {"wide"}),
    ({"min_side": 64}, "side", {"wide"}),
    ({"min_seconds": 1.0}, "seconds", {"short"}),
    ({"min_caption": 3}, "caption", {"short"}),
  ],
)
def test_a_limit_rejects_by_name_and_looks_at_nothing(
  media, measured, limits, reason, rejected
):
  rows, out = measured
  clips, rejects, looked_at = _ingest(media, out, _with(**limits))
  assert looked_at == 0
  assert _reasons(rejects) == dict.fromkeys(rejected, reason)
  assert {row["name"] for row in clips} == set(rows) - rejected
  for row in rejects:
    assert f"config.ingest.{next(iter(limits))}=" in row["message"]
    before = rows[row["name"]]
    assert {name: row[name] for name in before} == before


def test_all_broken_limits_are_named(media, measured):
  _, rejects, _ = _ingest(media, measured[1], _with(max_black=0.5, max_frozen=0.5))
  row = _by_name(rejects)["black"]
  assert row["reason"] == "black"
  assert "max_black=0.5" in row["message"] and "max_frozen=0.5" in row["message"]


def test_clips_without_a_caption_are_listed_for_the_captioner(media, measured):
  rows, out = measured
  _ingest(media, out)
  lines = (out / "uncaptioned.jsonl").read_text().splitlines()
  (line,) = map(json.loads, lines)
  row = rows["short"]
  assert line == {name: row[name] for name in line}
  assert line["key"] == row["key"] and line["path"].endswith("short.mp4")


def test_a_manifest_takes_back_what_the_captioner_is_given(tmp_path):
  (tmp_path / "in").mkdir()
  write.write_video(tmp_path / "in" / "a.png", scenes.texture(1, speed=0), 8.0)
  try:
    (tmp_path / "in" / "a.png").rename(os.fsdecode(bytes(tmp_path / "in") + b"/\xe9.png"))
  except OSError:
    pytest.skip("this file system takes only UTF-8")
  _ingest(tmp_path / "in", tmp_path / "out")
  shutil.copy(tmp_path / "out" / "uncaptioned.jsonl", tmp_path / "in" / "m.jsonl")
  (line,) = sources.lines(tmp_path / "in" / "m.jsonl")
  assert os.path.isfile(line.file)


def test_clips_that_look_alike_are_kept_once(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  first = scenes.texture(48, speed=2, size=(240, 320))
  write.write_video(folder / "a.mp4", first, RATE)
  write.write_video(folder / "b.mp4", first[:, ::2, ::2], RATE)
  write.write_video(folder / "c.gif", first[::2, ::4, ::4], RATE / 2)
  write.write_video(folder / "d.mp4", first[2:46], RATE)
  write.write_video(folder / "e.mp4", scenes.texture(48, seed=7), RATE)
  write.write_video(folder / "f.mp4", np.zeros_like(first), RATE)
  write.write_video(folder / "g.mp4", np.zeros_like(first)[:40], RATE)
  write.write_video(folder / "h.png", first[:1], RATE)
  clips, rejects, _ = _ingest(folder, tmp_path / "out", _with(near_duplicates=True))
  names = {row["name"] for row in clips}
  assert names == {"a", "e", "f", "g", "h"}, _reasons(rejects)
  key = _by_name(clips)["a"]["key"]
  for row in rejects:
    assert (row["reason"], row["duplicate_of"]) == ("near_duplicate", key)
    assert key in row["message"]


def test_what_looks_like_a_clip_that_failed_is_kept(tmp_path):
  folder, out = tmp_path / "in", tmp_path / "out"
  folder.mkdir()
  clip = scenes.texture(24, speed=2, size=(240, 320))
  for step, name in enumerate("abc", 1):
    write.write_video(folder / f"{name}.mp4", clip[:, ::step, ::step], RATE)
  config = _with(near_duplicates=True)
  (row,), _, _ = _ingest(folder, out, config)
  assert row["name"] == "a"
  with facts_lib.Facts(out / "facts.sqlite") as facts:
    facts.fail(row["key"], "damaged", "after all", seconds=60.0, line=1)
  (row,), rejects, _ = _ingest(folder, out, config)
  assert row["name"] == "b"
  assert _reasons(rejects) == {"a": "damaged", "c": "near_duplicate"}


def test_what_comes_again_within_a_long_file_is_kept_once(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  parts = [scenes.texture(49, seed=seed, speed=2) for seed in (1, 2, 1)]
  write.write_video(folder / "a.mp4", np.concatenate(parts), RATE)
  clips, rejects, _ = _ingest(folder, tmp_path / "out", _with(near_duplicates=True))
  assert [row["first_frame"] for row in clips] == [0, 49]
  (row,) = rejects
  assert (row["first_frame"], row["reason"]) == (98, "near_duplicate")
  assert row["duplicate_of"] == clips[0]["key"]


def test_a_duplicate_of_a_rejected_clip_is_kept(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  write.write_video(folder / "a.mp4", scenes.texture(12), RATE)
  (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes())
  (folder / "b.txt").write_text("captioned")
  clips, rejects, _ = _ingest(folder, tmp_path / "out", _with(min_caption=1))
  assert [row["name"] for row in clips] == ["b"]
  assert _reasons(rejects) == {"a": "caption"}


def test_clips_lie_within_shots(tmp_path):
  pytest.importorskip("scenedetect")
  folder = tmp_path / "in"
  folder.mkdir()
  lengths = (20, 6, 61)
  parts = [scenes.texture(n, seed=n, hue=i, speed=2) for i, n in enumerate(lengths)]
  write.write_video(folder / "a.mp4", np.concatenate(parts), RATE)
  config = _with(shots="adaptive")
  media = dataclasses.replace(config.media, min_frames=9)
  config = dataclasses.replace(config, media=media)
  clips, rejects, _ = _ingest(folder, tmp_path / "out", config)
  shape = [(row["shot"], row["first_frame"], row["frames"]) for row in clips]
  assert shape == [(0, 0, 20), (2, 26, 49), (2, 75, 12)]
  (short,) = rejects
  assert (short["reason"], short["first_frame"], short["frames"]) == ("too_short", 20, 6)
  # Without the detector nothing of the cuts is left, and the file is looked at again.
  clips, _, looked_at = _ingest(folder, tmp_path / "out")
  assert looked_at == 1 and [row["first_frame"] for row in clips] == [0, 49]
