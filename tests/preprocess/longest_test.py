"""Clips longer than a row of training are refused before any is encoded."""

import pytest

from tests.preprocess import sets
from video_dit.preprocess import run


def _check(config, media, folder, **data) -> str:
  config = sets.change(config, "data", **data)
  with pytest.raises(ValueError, match="do not fit a row") as refused:
    run.preprocess(config, media, folder)
  assert not (folder / "latents").exists()
  assert not (folder / "clips.parquet").exists()
  return str(refused.value)


def test_clips_longer_than_a_row_are_refused_before_they_are_encoded(
  config, media, tmp_path
):
  # The media's longest clips are 9 frames of 32x32: 3 latent frames of 2 x 2 tokens.
  said = _check(config, media, tmp_path / "out", row_length=10)
  for part in (
    "of 6 clips",
    "9 frames of 32x32, 12 tokens",
    "row_length=1024",
    "max_frames=5",
    "data.long=split",
  ):
    assert part in said


def test_clips_that_are_to_be_split_need_a_row_for_one_of_their_frames(
  config, media, tmp_path
):
  said = _check(config, media, tmp_path / "out", row_length=3, long="split")
  assert "max_pixels" in said and "max_frames" not in said
  config = sets.change(config, "data", row_length=4, long="split")
  assert run.preprocess(config, media, tmp_path / "out").made.written == 6
