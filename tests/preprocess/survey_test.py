"""One pass over a file: cuts and measures fall on the clips' frames."""

import dataclasses
import fractions
import json

import av
import numpy as np
import pytest

from tests.preprocess import scenes
from video_dit import config as config_lib
from video_dit.media import decode, write
from video_dit.preprocess import examine, survey

MEDIA = config_lib.Media(frames_per_second=12.0, timeout_seconds=60.0)


def _examine(path, media=MEDIA, ingest=None, **part) -> dict:
  part = {"start_seconds": 0.0, "end_seconds": None} | part
  ingest = ingest or config_lib.Ingest()
  job = examine.Examine(
    id=b"", file=str(path), record=None, media=media, ingest=ingest, **part
  )
  known, _ = examine.work(job)
  return known


@pytest.mark.parametrize("rate", [24.0, 12.0, 7.0, 0.0])
def test_samples_lie_on_the_ticks_that_show_their_frames(tmp_path, rate):
  path = tmp_path / "a.mp4"
  write.write_video(path, scenes.brightening(48), 24.0)
  media = dataclasses.replace(MEDIA, frames_per_second=rate)
  ingest = config_lib.Ingest(samples_per_second=6.0)
  known = _examine(path, media, ingest)
  frames = list(decode.frames(path, media))
  assert known["frames"] == len(frames)
  assert (known["decoded_frames"], known["declared_frames"]) == (48, 48)
  samples = survey.unpack(known["samples"])
  assert len(samples) == 12
  # A frame that no tick shows is measured for the tick after it.
  most = 3 + 180 / 47 * (24 / rate - 1 if rate else 0)
  for sample in samples:
    assert abs(int(sample["level"]) - frames[sample["tick"]].mean()) < most


def test_a_part_of_a_file_is_measured_from_its_start(tmp_path):
  path = tmp_path / "a.mp4"
  write.write_video(path, scenes.brightening(120), 24.0)
  known = _examine(path, start_seconds=3.0, end_seconds=4.0)
  assert known["frames"] == 12
  samples = survey.unpack(known["samples"])
  assert samples["tick"].min() == 0 and samples["tick"].max() <= 11
  frames = list(decode.frames(path, MEDIA, start_seconds=3.0, end_seconds=4.0))
  for sample in samples:
    assert abs(int(sample["level"]) - frames[sample["tick"]].mean()) < 7


def _write_at(path, stamps, base):
  """A video whose frames have these time stamps, in units of `base` seconds."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=round(1 / base))
    stream.width = stream.height = 64
    stream.codec_context.time_base = base
    for i, stamp in enumerate(stamps):
      pixels_HWC = np.full((64, 64, 3), 4 * i % 250, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
      frame.pts, frame.time_base = stamp, base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
@pytest.mark.parametrize(
  ("stamps", "base", "rate"),
  [
    (range(100), fractions.Fraction(1, 1000), 1000),  # more than anyone declares
    ([*range(0, 20, 2), *range(20, 100, 8)], fractions.Fraction(1, 10), 2),
  ],
)
def test_a_rate_that_is_no_mean_gives_way_to_what_was_decoded(
  tmp_path, name, stamps, base, rate
):
  _write_at(tmp_path / name, stamps, base)
  known = _examine(tmp_path / name, dataclasses.replace(MEDIA, frames_per_second=0.0))
  assert known["frames"] == len(stamps)
  assert known["frames_per_second"] == pytest.approx(rate, rel=0.1)


def test_an_image_is_one_sample(tmp_path):
  path = tmp_path / "a.png"
  write.write_video(path, scenes.texture(1), 24.0)
  known = _examine(path)
  (sample,) = survey.unpack(known["samples"])
  assert (known["kind"], sample["tick"], sample["change"]) == ("image", 0, 0)
  assert sample["hash"] and known["cuts"] == []


def test_nothing_is_measured_where_nobody_asks(tmp_path):
  path = tmp_path / "a.mp4"
  write.write_video(path, scenes.texture(12), 24.0)
  known = _examine(path, ingest=config_lib.Ingest(measure=False))
  assert known["frames"] == 6 and not len(survey.unpack(known["samples"]))


def test_clips_in_memory_are_surveyed_as_files_are():
  frames_FHWC = scenes.texture(24)
  seen = survey.of_clip(frames_FHWC, 12.0, config_lib.Ingest())
  np.testing.assert_array_equal(
    survey.unpack(seen["samples"])["tick"], [0, 3, 6, 9, 12, 15, 18, 21]
  )


@pytest.mark.parametrize("name", ["content", "adaptive"])
@pytest.mark.parametrize("rate", [24.0, 12.0, 0.0])
def test_hard_cuts_fall_between_the_clips_frames(tmp_path, name, rate):
  pytest.importorskip("scenedetect")
  path = tmp_path / "a.mp4"
  parts = [scenes.texture(20, seed=seed, hue=seed) for seed in range(3)]
  write.write_video(path, np.concatenate(parts), 24.0)
  media = dataclasses.replace(MEDIA, frames_per_second=rate)
  known = _examine(path, media, config_lib.Ingest(shots=name))
  step = 24 / rate if rate else 1
  assert known["cuts"] == [20 / step, 40 / step]


def test_a_video_without_a_cut_has_none(tmp_path):
  pytest.importorskip("scenedetect")
  path = tmp_path / "a.mp4"
  write.write_video(path, scenes.texture(48, speed=2), 24.0)
  assert _examine(path, ingest=config_lib.Ingest(shots="adaptive"))["cuts"] == []


def test_the_cuts_of_real_videos_are_those_of_the_list(shared):
  pytest.importorskip("scenedetect")
  media = dataclasses.replace(MEDIA, frames_per_second=0.0)
  ingest = config_lib.Ingest(shots="adaptive", measure=False)
  text = (shared / "media" / "manifest.jsonl").read_text(encoding="utf-8")
  rows = [json.loads(line) for line in text.splitlines()]
  rows = [row for row in rows if "cuts" in row or "asl_" in row["file"]]
  assert len(rows) == 9
  for row in rows:
    found = _examine(shared / "media" / row["file"], media, ingest)["cuts"]
    hard = row.get("cuts", {}).get("hard", [])
    gradual = row.get("cuts", {}).get("gradual", [])
    assert set(hard) <= set(found), row["file"]
    for cut in set(found) - set(hard):
      assert any(first - 8 <= cut <= last + 8 for first, last, _ in gradual), row["file"]


def test_a_part_behind_the_end_has_no_frames_and_the_end_is_known(tmp_path):
  clip = np.random.default_rng(0).integers(0, 255, (40, 32, 48, 3), np.uint8)
  write.write_video(tmp_path / "a.mp4", clip, 8)
  for start in (6.0, 60.0):
    known = _examine(tmp_path / "a.mp4", start_seconds=start)
    assert known["frames"] == 0
    assert known["decoded_seconds"] == 5.0
