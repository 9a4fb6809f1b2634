"""Frames at one rate by their time stamps, and every file of the shared media."""

import json
import time
import tracemalloc

import av
import numpy as np
import pytest

from video_dit import config
from video_dit.media import container, video
from video_dit.media.decode import frames
from video_dit.media.errors import MediaError
from video_dit.media.probe import probe

OWN = config.Media(frames_per_second=0)


def at(rate, **changes):
  return config.Media(frames_per_second=rate, **changes)


def test_own_rate_gives_each_frame_once(tmp_path, encode, counted, indices):
  path = encode(tmp_path / "a.mp4", counted(20))
  assert indices(frames(path, OWN)) == list(range(20))
  part = frames(path, OWN, start_seconds=0.2, end_seconds=0.4)
  assert indices(part) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("rate", [5, 10, 12.5, 24, 25, 30, 60])
def test_frames_are_those_on_show(tmp_path, encode, counted, indices, rate):
  path = encode(tmp_path / "a.mp4", counted(20))
  seen = indices(frames(path, at(rate)))
  assert len(seen) == round(0.8 * rate)
  early = 0.49 / max(25, rate)
  expected = [min(19, int((tick / rate + early) * 25)) for tick in range(len(seen))]
  assert seen == expected


def test_variable_rates_are_held(tmp_path, encode, counted, indices):
  stamps = [0, 40, 80, 500, 540, 1000, 1040]
  path = encode(tmp_path / "a.mkv", counted(7), milliseconds=stamps, options={"bf": "0"})
  seen = indices(frames(path, at(25)))
  assert len(seen) == 27
  for tick, index in enumerate(seen):
    shown = max(i for i, stamp in enumerate(stamps) if stamp <= 40 * tick + 19)
    assert index == shown, tick


def test_time_counts_from_the_first_frame(tmp_path, encode, counted, indices):
  stamps = [700 + 40 * index for index in range(12)]
  path = encode(tmp_path / "a.mkv", counted(12), milliseconds=stamps)
  assert indices(frames(path, at(25))) == list(range(12))
  stream = np.repeat(np.repeat(counted(12), 8, axis=1), 8, axis=2)
  path = encode(tmp_path / "a.ts", stream, codec="mpeg2video", options={"b": "4000000"})
  assert indices(frames(path, at(25))) == list(range(12))


def test_rounded_stamps_neither_repeat_nor_drop(tmp_path, encode, counted, indices):
  stamps = [round(1000 * index / 30) for index in range(25)]
  path = encode(tmp_path / "a.mkv", counted(25), milliseconds=stamps)
  for rate in (30, 29.97, 30.03):
    assert indices(frames(path, at(rate))) == list(range(25))


def test_avi_with_b_frames_comes_in_order(tmp_path, encode, counted, indices):
  for codec in ("mpeg4", "libx264"):
    path = encode(
      tmp_path / "a.avi", counted(25), codec=codec, options={"bf": "2", "b": "2000000"}
    )
    assert indices(frames(path, at(25))) == list(range(25)), codec


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_parts_of_a_file_equal_the_whole(tmp_path, encode, counted, indices, name):
  clip = np.concatenate([counted(30)] * 5)
  path = encode(tmp_path / name, clip, options={"g": "20", "bf": "2"})
  whole = list(frames(path, at(25)))
  assert len(whole) == 150
  for start, stop in ((0, 20), (60, 90), (101, 150), (149, 150)):
    part = list(frames(path, at(25), start_seconds=start / 25, end_seconds=stop / 25))
    assert np.array_equal(part, whole[start:stop])
  rest = list(frames(path, at(25), start_seconds=4.0))
  assert np.array_equal(rest, whole[100:])
  assert not list(frames(path, at(25), start_seconds=7.0))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_parts_are_whole_where_pictures_are_refreshed_by_columns(tmp_path, encode, name):
  """Containers call the start of a refresh a key frame; no picture is whole there."""
  small_HWC = np.random.default_rng(0).integers(0, 255, (4, 10, 3), np.uint8)
  picture_HWC = np.repeat(np.repeat(small_HWC, 16, axis=0), 16, axis=1)
  clip = np.stack([np.roll(picture_HWC, 2 * n, axis=1) for n in range(100)])
  options = {"intra-refresh": "1", "g": "24", "bf": "0"}
  path = encode(tmp_path / name, clip, options=options)
  whole = list(frames(path, at(25)))
  for start in (52, 63, 75):
    rest = list(frames(path, at(25), start_seconds=start / 25))
    assert np.array_equal(rest, whole[start:])


def test_held_frames_are_arrays_of_their_own(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(3))
  seen = list(frames(path, at(75)))
  seen[0][:] = 255
  assert (seen[1] < 30).all()


def test_a_video_of_one_frame_is_one_frame(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(1), rate=2)
  for rate in (0, 1, 24):
    assert len(list(frames(path, at(rate)))) == 1


def test_good_frames_come_before_the_error(tmp_path, encode, counted, indices):
  faststart = {"movflags": "faststart"}
  path = encode(
    tmp_path / "a.mp4", counted(20), options={"bf": "0"}, container_options=faststart
  )
  data = path.read_bytes()
  path.write_bytes(data[:-40])
  seen = []
  with pytest.raises(MediaError) as caught:
    for frame_HWC in frames(path, at(25)):
      seen.append(frame_HWC)
  assert caught.value.reason == "truncated"
  assert indices(seen) == list(range(len(seen))) and len(seen) >= 10


def test_sizes_asked_for_are_given(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(3))
  assert {frame.shape for frame in frames(path, OWN, size=(16, 40))} == {(16, 40, 3)}


def test_one_frame_is_held_at_a_time(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(200, 128, 128, step=1))
  one = 128 * 128 * 3
  tracemalloc.start()
  try:
    assert sum(1 for _ in frames(path, at(50))) == 400
    assert tracemalloc.get_traced_memory()[1] < 20 * one
  finally:
    tracemalloc.stop()


def test_only_the_time_spent_here_counts(tmp_path, encode, counted):
  path = encode(tmp_path / "a.mp4", counted(3))
  with pytest.raises(MediaError) as caught:
    list(frames(path, at(25, timeout_seconds=1e-9)))
  assert caught.value.reason == "timeout"
  for _ in frames(path, at(25, timeout_seconds=1.0)):
    time.sleep(0.4)


# Of the shared broken files: the reason of the reject, or the frames of a good one.
BROKEN = {
  "truncated_moov_first.mp4": "truncated",
  "truncated_no_moov.mp4": "unreadable",
  "zero_bytes.mp4": "empty",
  "html_error_page.mp4": "not_media",
  "audio_only.mp4": "no_video",
  "one_frame.mp4": 1,
  "header_says_10x_frames.mp4": 60,
  "corrupt_middle.mp4": "damaged",
  "invalid_nalu.mp4": "damaged",
  "one_by_one.png": "too_small",
  "-video-with-dash-1x1-.mp4": "too_small",
  "cmyk_with_icc.jpg": 1,
  "palette_alpha.png": 1,
  "видео 猫 clip #1 (copy).mp4": 30,
  "bomb_65536x65536_palette.png": "too_large",
  "bomb_header_60000x60000.png": "too_large",
  "truncated.jpg": "truncated",
}


def _manifest(shared):
  lines = (shared / "media" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


def _outcome(path):
  """Frames counted, or the reason of the reject; few are converted, to save time."""
  try:
    if path.suffix in (".mp4", ".webm", ".mkv", ".avi"):
      with container.open_video(path, OWN) as clip:
        return sum(1 for _ in video.shown(clip))
    return sum(1 for _ in frames(path, OWN, size=(32, 32)))
  except MediaError as error:
    return error.reason


def test_every_shared_file_is_handled_as_its_manifest_says(shared):
  wrong = {}
  for entry in _manifest(shared):
    name = entry["file"]
    expected = BROKEN.get(name.split("/")[1], entry.get("frames", 1))
    outcome = _outcome(shared / "media" / name)
    if outcome != expected:
      wrong[name] = outcome, expected
  assert not wrong


def test_every_shared_file_is_described_as_its_manifest_says(shared):
  for entry in _manifest(shared):
    if "broken" in entry["file"] or "display_size" not in entry:
      continue
    seen = probe(shared / "media" / entry["file"], OWN)
    width, height = entry["display_size"]
    top, _, bottom = entry.get("sar", "1").partition("/")
    width = round(width * int(top) / int(bottom or 1))
    name = entry["file"]
    assert (seen.width, seen.height) == (width, height), name
    if "codec" in entry:
      assert seen.kind == "video" and seen.codec == entry["codec"], name
      assert seen.audio == entry["audio"], name
      assert seen.rotation == entry["rotation"], name
      assert seen.duration_seconds == pytest.approx(entry["duration"], abs=0.1), name
    else:
      assert (seen.kind, seen.frames) == ("image", 1), name


def test_shared_files_with_hard_times_give_their_duration(shared):
  hard = (
    "asl_brother.mkv",
    "bottle_vfr.mp4",
    "gannets_mpeg4.avi",
    "bbb_title_h264.avi",
    "car_bframes_mp3.avi",
    "newtonscradle.gif",
    "portrait_4k60.mp4",
    "asl_again.mkv",
  )
  durations = {entry["file"]: entry.get("duration") for entry in _manifest(shared)}
  for name in hard:
    seconds = durations[f"clips/{name}"]
    count = sum(1 for _ in frames(shared / "media/clips" / name, at(10), size=(16, 16)))
    assert abs(count - seconds * 10) <= 1, name


def test_shared_broken_files_keep_their_beginning_where_wanted(shared):
  keep = config.Media(frames_per_second=0, keep_truncated=True)
  for entry in _manifest(shared):
    if BROKEN.get(entry["file"].split("/")[1]) in ("damaged", "truncated"):
      if "codec" not in entry:
        continue  # Half an image is no image.
      path = shared / "media" / entry["file"]
      count = sum(1 for _ in frames(path, keep, size=(16, 16)))
      assert abs(count - entry["frames"]) <= 2, entry["file"]


def test_turned_shared_clips_are_upright(shared):
  for name in ("cockatoo_phone_portrait_flag.mp4", "portrait_4k60.mp4"):
    path = shared / "media" / "clips" / name
    upright = next(frames(path, OWN))
    with av.open(str(path)) as opened:
      coded = next(opened.decode(video=0))
      expected = np.rot90(coded.to_ndarray(format="rgb24"), coded.rotation // 90)
    assert np.abs(upright.astype(int) - expected).mean() < 8  # The matrix may differ.


def test_shared_cmyk_and_palette_images_have_sane_colours(shared):
  broken = shared / "media" / "broken"
  cmyk = next(frames(broken / "cmyk_with_icc.jpg", OWN))
  assert cmyk.shape == (333, 500, 3) and 40 < cmyk.mean() < 220
  palette = next(frames(broken / "palette_alpha.png", OWN))
  assert palette.shape == (150, 162, 3) and (palette == 255).all(-1).any()
