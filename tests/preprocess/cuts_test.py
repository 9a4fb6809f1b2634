"""Frames into clips: nothing lost without being counted, all on the grid."""

import dataclasses

import pytest

from video_dit import config as config_lib
from video_dit.preprocess import cuts

MEDIA = config_lib.Media(max_pixels=64 * 64, max_frames=17, frames_per_second=8.0)
GRID = config_lib.Grid(space=8, time=4, patch=(1, 2, 2))
FACTS = {
  "sha256": "0" * 64,
  "kind": "video",
  "height": 48,
  "width": 64,
  "frames": 17,
  "frames_per_second": 8.0,
}


def _cut(frames, media=MEDIA, grid=GRID, **facts):
  return cuts.cut({**FACTS, "frames": frames, **facts}, media, grid)


@pytest.mark.parametrize(
  ("frames", "lengths", "dropped"),
  [
    (17, [17], 0),
    (18, [17], 1),
    (20, [17], 3),
    (22, [17, 5], 0),
    (33, [17, 13], 3),
    (34, [17, 17], 0),
    (5, [5], 0),
    (8, [5], 3),
  ],
)
def test_lengths(frames, lengths, dropped):
  clips = _cut(frames)
  assert [clip.frames for clip in clips] == lengths
  assert sum(lengths) + dropped == frames
  assert [clip.frames_dropped for clip in clips] == [0] * (len(clips) - 1) + [dropped]
  starts = [sum(lengths[:i]) for i in range(len(lengths))]
  assert [clip.first_frame for clip in clips] == starts
  for clip in clips:
    assert clip.latent == (1 + (clip.frames - 1) // 4, clip.height // 8, clip.width // 8)
    assert clip.tokens == clip.latent[0] * clip.latent[1] * clip.latent[2] // 4
    assert clip.height % 16 == clip.width % 16 == 0
    assert clip.height * clip.width <= MEDIA.max_pixels


@pytest.mark.parametrize("frames", [0, 2, 4])
def test_too_short(frames):
  with pytest.raises(cuts.CutError, match=f"{frames} frames") as error:
    _cut(frames)
  assert error.value.reason == "too_short"


def test_a_part_behind_the_end_says_so():
  facts = {**FACTS, "frames": 0, "decoded_seconds": 2.5}
  with pytest.raises(cuts.CutError, match=r"start_seconds=7 .* lasts 2\.50 s") as error:
    cuts.cut(facts, MEDIA, GRID, start_seconds=7.0)
  assert error.value.reason == "too_short"


def test_a_part_shorter_than_half_a_frame_is_not_said_to_lie_behind_the_end():
  """Decoding such a part of a long file ends where it begins."""
  facts = {**FACTS, "frames": 0, "decoded_seconds": 2.71}
  with pytest.raises(cuts.CutError, match=r"from 3 to 3\.05 s is no longer than half"):
    cuts.cut(facts, MEDIA, GRID, start_seconds=3.0, end_seconds=3.05)
  with pytest.raises(cuts.CutError, match="past the end"):
    cuts.cut(facts, MEDIA, GRID, start_seconds=3.0, end_seconds=3.5)
  image = {**facts, "kind": "image", "frames": 1, "frames_per_second": 0.0}
  assert cuts.cut(image, MEDIA, GRID, start_seconds=3.0, end_seconds=3.05)


def test_short_videos_become_stills_where_the_config_allows():
  (clip,) = _cut(3, dataclasses.replace(MEDIA, min_frames=1))
  assert (clip.frames, clip.frames_dropped) == (1, 2)


def test_a_single_frame_behind_a_clip_is_no_image():
  (clip,) = _cut(20, dataclasses.replace(MEDIA, min_frames=1))
  assert (clip.frames, clip.frames_dropped) == (17, 3)


def test_images_are_clips_of_one_frame():
  (clip,) = _cut(1, kind="image", frames_per_second=0.0)
  assert (clip.frames, clip.latent) == (1, (1, 6, 8))


def test_refuse_long():
  media = dataclasses.replace(MEDIA, long="refuse")
  (clip,) = _cut(20, media)
  assert (clip.frames, clip.frames_dropped) == (17, 3)
  with pytest.raises(cuts.CutError) as error:
    _cut(21, media)
  assert error.value.reason == "too_long"


def test_patches_in_time_divide_the_latent_frames():
  grid = dataclasses.replace(GRID, patch=(2, 2, 2))
  (clip,) = _cut(17, grid=grid)
  assert clip.latent[0] == 4
  assert clip.frames == 13
  with pytest.raises(cuts.CutError):
    _cut(1, grid=grid, kind="image")


def test_patches_that_are_not_square_divide_both_sides():
  (clip,) = _cut(17, grid=dataclasses.replace(GRID, patch=(1, 1, 2)), width=80)
  assert clip.height % 8 == clip.width % 16 == 0 and clip.tokens == 5 * 6 * 5


def test_key_names_content_cut_and_pixels_only():
  (clip,) = _cut(17)
  assert len(clip.key) == 32
  assert _cut(17, codec="other")[0].key == clip.key
  assert _cut(17, dataclasses.replace(MEDIA, workers=9))[0].key == clip.key
  others = [
    _cut(17, sha256="1" * 64),
    _cut(13),
    _cut(17, dataclasses.replace(MEDIA, max_pixels=32 * 32)),
    _cut(17, dataclasses.replace(MEDIA, frames_per_second=9.0)),
    cuts.cut(FACTS, MEDIA, GRID, start_seconds=1.0),
    cuts.cut(FACTS, MEDIA, GRID, end_seconds=9.0),
  ]
  assert len({clip.key, *(other[0].key for other in others)}) == 1 + len(others)


def test_video_without_a_rate_is_set_aside():
  with pytest.raises(cuts.CutError) as error:
    _cut(17, frames_per_second=0.0)
  assert error.value.reason == "no_rate"


@pytest.mark.parametrize(
  ("media", "dit", "message"),
  [
    ({"max_pixels": 100}, {}, "max_pixels=100 is less than one token of 16x16"),
    ({"max_frames": 1}, {"patch": (2, 2, 2)}, "max_frames=1 is less than one token of 5"),
    ({"max_pixels": 900}, {"patch": (1, 2, 4)}, "less than one token of 32x32 pixels"),
  ],
)
def test_limits_below_one_token_are_refused(media, dit, message):
  config = config_lib.Config(
    name="t",
    objective="diffusion",
    media=config_lib.Media(**media),
    dit=config_lib.DiT(**dit),
  )
  with pytest.raises(ValueError, match=message):
    cuts.grid_of(config)
