"""Coded streams without a container: no time stamps, no index, no length."""

from fractions import Fraction

import av
import numpy as np
import pytest

from video_dit import config
from video_dit.media.decode import frames
from video_dit.media.probe import probe

OWN = config.Media(frames_per_second=0)
BARE = [("a.264", "libx264"), ("a.265", "libx265"), ("a.m2v", "mpeg2video")]


@pytest.fixture(params=BARE, ids=[name for name, _ in BARE])
def bare(request, tmp_path, encode, counted):
  """A function that encodes five times 30 grey levels at a rate."""
  name, codec = request.param
  if codec not in av.codecs_available:
    pytest.skip(f"this PyAV has no {codec}")

  def make(rate):
    options = {"g": "20", "bf": "2"}
    if codec == "libx265":
      options["x265-params"] = "log-level=none"
    clip = np.concatenate([counted(30, 32, 64)] * 5)
    return encode(tmp_path / name, clip, codec=codec, rate=rate, options=options)

  return make


def test_parts_of_a_bare_stream_equal_the_whole(bare):
  path, media = bare(25), config.Media(frames_per_second=25)
  whole = list(frames(path, media))
  assert len(whole) == 150
  for start, stop in ((60, 90), (101, 150)):
    part = frames(path, media, start_seconds=start / 25, end_seconds=stop / 25)
    assert np.array_equal(list(part), whole[start:stop])
  assert np.array_equal(list(frames(path, media, start_seconds=4.0)), whole[100:])


@pytest.mark.parametrize("rate", [24, 30, Fraction(30000, 1001), 50])
def test_the_rate_of_a_bare_stream_is_its_codecs(bare, rate):
  path = bare(rate)
  assert probe(path, OWN).frames_per_second == pytest.approx(float(rate))
  for wanted in (float(rate), float(rate) / 2):
    count = sum(1 for _ in frames(path, config.Media(frames_per_second=wanted)))
    assert count == round(150 * wanted / rate)


def test_the_first_frame_of_a_bare_stream_is_shown_once(bare, indices):
  seen = indices(frames(bare(25), config.Media(frames_per_second=25)))
  assert np.abs(np.subtract(seen, [*range(30)] * 5)).max() <= 1  # MPEG-2 is coarse.
  assert seen[:3] == [0, 1, 2] and len(seen) == 150
