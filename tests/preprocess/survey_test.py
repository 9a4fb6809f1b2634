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
from video_dit.preprocess import examine, limits, survey

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


def _write_lossless(path, frames_FHWC, ticks):
  """A video whose frames are shown from these ticks on, of 1/24 s."""
  base = fractions.Fraction(1, 24)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("ffv1", rate=24)
    stream.height, stream.width = frames_FHWC.shape[1:3]
    stream.pix_fmt, stream.codec_context.time_base = "bgr0", base
    for frame_HWC, tick in zip(frames_FHWC, ticks, strict=True):
      frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
      frame = frame.reformat(format="bgr0")
      frame.pts, frame.time_base = tick, base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.mark.parametrize("part", [(0.0, None), (0.75, 4.0), (2.0, 3.0)])
@pytest.mark.parametrize(
  "starts", [[0, 60, 100, 120], [*range(12), *range(96, 120)], [*range(0, 120, 6)]]
)
def test_pauses_measure_alike_at_constant_and_variable_rates(tmp_path, starts, part):
  """Slides, a pause within a motion, and a low rate: coded once, or again and again."""
  starts = [*starts, 143]  # Both end at the same time.
  frames_FHWC = scenes.texture(len(starts), speed=2, size=(64, 96))
  _write_lossless(tmp_path / "variable.mkv", frames_FHWC, starts)
  again = np.searchsorted(starts, np.arange(144), side="right") - 1
  _write_lossless(tmp_path / "constant.mkv", frames_FHWC[again], range(144))
  media, ingest = dataclasses.replace(MEDIA, frames_per_second=24.0), config_lib.Ingest()
  found = []
  for name in ("constant.mkv", "variable.mkv"):
    path = tmp_path / name
    known = _examine(path, media, start_seconds=part[0], end_seconds=part[1])
    samples = survey.unpack(known["samples"])
    assert (np.diff(samples["tick"]) >= 0).all()
    assert samples["tick"][-1] < known["frames"]
    found.append(limits.numbers(samples, 0, known["frames"], 24.0, ingest))
  constant, variable = found
  assert set(constant) == set(variable)
  for name in ("black_share", "frozen_share", "text_share", "sharpness"):
    assert variable[name] == pytest.approx(constant[name], rel=0.1, abs=0.06), name
  assert variable["motion"] == pytest.approx(constant["motion"], rel=0.2, abs=0.01)
  assert variable["frozen_seconds"] == pytest.approx(constant["frozen_seconds"], abs=0.3)
  assert variable["hashes"] == constant["hashes"]


def test_a_pause_of_hours_has_a_bounded_number_of_samples(tmp_path):
  _write_lossless(tmp_path / "a.mkv", scenes.texture(3), [0, 24, 24 * 5_000])
  media = dataclasses.replace(MEDIA, frames_per_second=4.0)
  known = _examine(tmp_path / "a.mkv", media)
  samples = survey.unpack(known["samples"])
  assert known["frames"] == 20_000 and 16_000 < len(samples) < 17_000
  found = limits.numbers(samples, 9_000, 16, 4.0, config_lib.Ingest())
  assert (found["frozen_share"], found["motion"]) == (1.0, 0.0)


def test_a_frame_that_is_held_for_one_tick_is_not_frozen(tmp_path):
  _write_lossless(tmp_path / "a.mkv", scenes.texture(12, speed=5), range(0, 144, 12))
  for rate, frozen in ((2.0, 0.0), (1.0, 0.0), (12.0, 0.5)):
    known = _examine(
      tmp_path / "a.mkv", dataclasses.replace(MEDIA, frames_per_second=rate)
    )
    samples = survey.unpack(known["samples"])
    found = limits.numbers(samples, 0, known["frames"], rate, config_lib.Ingest())
    assert found["frozen_share"] == pytest.approx(frozen, abs=0.05)
    assert found["motion"] > 0.05


def test_at_a_files_own_rate_a_frame_is_sampled_once(tmp_path):
  _write_lossless(tmp_path / "a.mkv", scenes.texture(3), [0, 48, 96])
  media = dataclasses.replace(MEDIA, frames_per_second=0.0)
  known = _examine(tmp_path / "a.mkv", media)
  assert list(survey.unpack(known["samples"])["tick"]) == [0, 1, 2]


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
