"""Broadcasts' containers: clocks that leap, bytes that are missing, joined files."""

import numpy as np
import pytest

from video_dit import config
from video_dit.media import video
from video_dit.media.decode import frames
from video_dit.media.errors import MediaError
from video_dit.media.probe import probe

OWN = config.Media(frames_per_second=0)
AT_25 = config.Media(frames_per_second=25)


@pytest.fixture
def part(tmp_path, encode, counted):
  """A function that gives the bytes of a stream of 30 frames from a time on."""

  def make(start_seconds, noise=False, suffix=".ts"):
    clip = counted(30, 32, 64)
    if noise:
      rng = np.random.default_rng(0)
      clip = np.clip(clip + rng.integers(0, 60, clip.shape), 0, 255).astype(np.uint8)
    stamps = [round(1000 * start_seconds) + 40 * index for index in range(30)]
    options = {"g": "15", "bf": "2"}
    path = tmp_path / f"part{suffix}"
    encode(path, clip, milliseconds=stamps, options=options)
    return path.read_bytes()

  return make


@pytest.mark.parametrize(
  "starts", [(0, 100), (100, 0), (5000, 100), (0, 1.2), (3000, 0, 90000)]
)
def test_joined_files_run_on(tmp_path, part, indices, starts):
  path = tmp_path / "joined.ts"
  path.write_bytes(b"".join(part(start) for start in starts))
  expected = [*range(30)] * len(starts)
  assert indices(frames(path, OWN)) == expected
  whole = list(frames(path, AT_25))
  assert indices(whole) == expected
  rest = list(frames(path, AT_25, start_seconds=2.2))
  assert np.array_equal(rest, whole[55:])
  assert probe(path, OWN).frames_per_second == pytest.approx(25, rel=0.2)


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mkv"])
def test_pauses_stay_where_frames_are_reordered(tmp_path, encode, counted, indices, name):
  seconds = [0, 1, 2, 20, 21, 56, 57, 57.5]
  path = tmp_path / name
  stamps = [round(1000 * second) for second in seconds]
  encode(path, counted(8, 32, 64), milliseconds=stamps, options={"bf": "2"})
  found = indices(frames(path, config.Media(frames_per_second=2)))
  assert found == [sum(s <= t / 2 for s in seconds) - 1 for t in range(len(found))]
  assert len(found) == pytest.approx(116, abs=2)


def test_a_pause_near_the_end_of_an_mp4_is_no_damage(tmp_path, encode, counted, indices):
  """Its packets last from one time of decoding to the next, not of display."""
  path = tmp_path / "a.mp4"
  stamps = [40 * n for n in (*range(30), *range(180, 205))]
  encode(path, counted(55, 32, 64), milliseconds=stamps, options={"bf": "2"})
  assert indices(frames(path, AT_25))[-25:] == [n % 32 for n in range(30, 55)]


def test_parts_of_a_broadcast_whose_clock_runs_are_sought(
  tmp_path, encode, counted, monkeypatch
):
  """It is gone through once, not for each part."""
  path = tmp_path / "a.ts"
  stamps, options = [3000 + 40 * n for n in range(150)], {"g": "15", "bf": "2"}
  encode(path, counted(150, 32, 64), milliseconds=stamps, options=options)
  looks, coded = [], video.coded
  monkeypatch.setattr(video, "coded", lambda *args: looks.append(1) or coded(*args))
  whole = list(frames(path, AT_25))
  for start in (2.4, 4.0, 5.2):
    rest = list(frames(path, AT_25, start_seconds=start))
    assert np.array_equal(rest, whole[round(25 * start) :])
  assert len(looks) == 1


def test_a_clock_that_wraps_runs_on(tmp_path, part, indices):
  path = tmp_path / "a.ts"
  path.write_bytes(part(2**33 / 90000 - 2))
  assert indices(frames(path, AT_25)) == list(range(30))


def test_the_limit_on_time_counts_what_passes(tmp_path, part):
  path = tmp_path / "a.ts"
  path.write_bytes(part(100) + part(0))
  limit = config.Media(frames_per_second=25, max_seconds=2.0)
  for read in (lambda: list(frames(path, limit)), lambda: probe(path, limit)):
    with pytest.raises(MediaError) as caught:
      read()
    assert caught.value.reason == "too_long"


def test_missing_bytes_are_damage(tmp_path, part, indices):
  data = part(0, noise=True)
  packets = [data[at : at + 188] for at in range(0, len(data), 188)]
  path = tmp_path / "a.ts"
  for lost in (0.02, 0.1, 0.3):
    first, last = (int(len(packets) * share) for share in (0.35, 0.35 + lost))
    path.write_bytes(b"".join(packets[:first] + packets[last:]))
    with pytest.raises(MediaError) as caught:
      list(frames(path, AT_25))
    assert caught.value.reason == "damaged"
    keep = config.Media(frames_per_second=25, keep_truncated=True)
    count = sum(1 for _ in frames(path, keep))
    assert 3 <= count <= 20


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_slides_stay_as_long_as_they_are_shown(tmp_path, encode, counted, indices, name):
  stamps = [0, 10_000, 20_000, 30_000]
  options = {"bf": "0"}
  path = encode(tmp_path / name, counted(4), milliseconds=stamps, options=options)
  seen = indices(frames(path, config.Media(frames_per_second=1)))
  assert seen[:30] == [0] * 10 + [1] * 10 + [2] * 10
  assert set(seen[30:]) <= {3}


@pytest.mark.parametrize(
  ("name", "codec", "unit"), [("a.ts", "libx264", 188), ("a.mpg", "mpeg2video", 2048)]
)
def test_a_broadcast_cut_inside_a_group_begins_with_its_first_whole_picture(
  tmp_path, encode, counted, name, codec, unit
):
  """And not with a still of it for as long as nothing could be decoded."""
  noise = np.random.default_rng(0).integers(0, 8, (128, 64, 64, 3))
  clip = np.concatenate([counted(32, 64, 64, step=7)] * 4) + noise.astype(np.uint8)
  options = {"g": "32", "bf": "2", "scenecut": "0"}
  if codec == "mpeg2video":
    options |= {"sc_threshold": "1000000000", "b": "4000000"}
    del options["scenecut"]
  path = encode(tmp_path / name, clip, codec=codec, options=options)
  data = path.read_bytes()
  path.write_bytes(data[len(data) // 5 // unit * unit :])
  whole = list(frames(path, AT_25))
  assert 88 <= len(whole) <= 98  # of 128, the first group of which is lost
  levels = [frame_HWC.mean() for frame_HWC in whole[1:20]]
  assert np.diff(levels).min() > 4
  assert probe(path, AT_25).duration_seconds == pytest.approx(len(whole) / 25, abs=0.1)
  for start in (55, 70):
    rest = list(frames(path, AT_25, start_seconds=start / 25))
    assert np.array_equal(rest, whole[start:])
