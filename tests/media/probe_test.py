"""What a file is said to be."""

import pytest

from video_dit import config
from video_dit.media.probe import probe

MEDIA = config.Media()


def test_a_video_is_described(tmp_path, encode, counted):
  path = encode(tmp_path / "a b #1 %03d.mp4", counted(10), rate=20)
  seen = probe(path, MEDIA)
  assert (seen.kind, seen.codec, seen.frames) == ("video", "h264", 10)
  assert (seen.frames_per_second, seen.bit_depth, seen.rotation) == (20.0, 8, 0)
  assert seen.duration_seconds == pytest.approx(0.5)
  assert not seen.audio


def test_counts_that_contradict_the_duration_are_not_believed(shared):
  path = shared / "media" / "broken" / "header_says_10x_frames.mp4"
  assert probe(path, MEDIA).frames is None


def test_odd_names_are_names(tmp_path, encode, counted, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("-y.mp4", "concat:a.mp4", "видео 猫.mp4"):
    encode(tmp_path / name, counted(2))
    assert probe(name, MEDIA).codec == "h264"
