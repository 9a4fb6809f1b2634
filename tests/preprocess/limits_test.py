"""Numbers of a clip from the samples of its file."""

import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.preprocess import limits, measure


@pytest.mark.parametrize("count", [4, 12, 20, 40])
def test_a_sample_more_or_less_leaves_the_same_hashes(count):
  """As of a copy that is a frame longer, or of another rate."""

  def hashes(count: int) -> list[int]:
    samples = np.zeros(count, measure.DTYPE)
    samples["tick"] = 6 * np.arange(count)
    samples["hash"] = 1 + np.arange(count)
    return limits.numbers(samples, 0, 6 * count, 24.0, config_lib.Ingest())["hashes"]

  assert hashes(count) == hashes(count + 1)
  assert len(set(hashes(count))) == 4
  assert hashes(count)[0] < 0.25 * count + 1 and hashes(count)[-1] > 0.75 * count


def _numbers(ticks, **fields):
  """Of a clip of 12 frames, one a second, sampled at these."""
  samples = np.zeros(len(ticks), measure.DTYPE)
  samples["tick"], samples["level"] = ticks, 200
  for name, values in fields.items():
    samples[name] = values
  ingest = config_lib.Ingest(black_level=16, frozen_level=1.0)
  return limits.numbers(samples, 0, 12, 1.0, ingest)


def test_black_that_is_broken_by_light_is_not_one_run():
  found = _numbers([0, 2, 4, 6, 8, 10], level=[0, 0, 200, 0, 200, 0])
  assert found["black_seconds"] == 4
  assert found["black_share"] == pytest.approx(8 / 12)


def test_frozen_time_is_that_before_the_sample_which_says_so():
  found = _numbers([0, 6, 8], change=[9, 0, 9], next_change=[np.nan] * 3)
  assert found["frozen_seconds"] == 6
  assert found["frozen_share"] == pytest.approx(6 / 8)


def test_motion_across_the_ends_of_a_clip_does_not_count():
  assert _numbers([0, 4, 8], motion=[9, 1, 1], onward=[1, 1, 9])["motion"] == 1


def test_motion_counts_for_as_long_as_it_lasts():
  found = _numbers([0, 1, 10], motion=[0, 1, 0], onward=[0, 1, 0])
  assert found["motion"] == pytest.approx(9 / 12)


def test_the_first_sample_stands_for_what_comes_before_it_too():
  found = _numbers([3, 6], level=[0, 200])
  assert found["black_seconds"] == 6 and found["black_share"] == 0.5


def test_what_is_at_its_level_is_black_or_frozen():
  found = _numbers([0, 3, 6], level=[16, 17, 16], change=[9, 1, 9], next_change=[9] * 3)
  assert (found["black_seconds"], found["black_share"]) == (6, 0.75)
  assert _numbers([0, 3, 6], change=[9, 1, 1.5])["frozen_seconds"] == 3


_IMAGE = {"source_height": 9, "source_width": 9, "kind": "image", "caption": "b"}


def test_the_length_that_is_limited_is_the_clips_and_not_the_files():
  row = _IMAGE | {"kind": "video", "start_seconds": 7.0, "end_seconds": 9.0}
  assert not limits.broken(row, config_lib.Ingest(min_seconds=2.0))
  ((reason, said),) = limits.broken(row, config_lib.Ingest(min_seconds=3.0))
  assert reason == "seconds" and "the length is 2;" in said


@pytest.mark.parametrize("name", ["black", "frozen", "text"])
def test_a_share_may_be_limited_to_none(name):
  column = f"{name}_share"
  strict = config_lib.Ingest(**{f"max_{name}": 0.0})
  assert not limits.broken(_IMAGE | {column: 0.0}, strict)
  assert not limits.broken(_IMAGE | {column: 0.1}, config_lib.Ingest())
  ((reason, _),) = limits.broken(_IMAGE | {column: 0.1}, strict)
  assert reason == name


def test_the_longest_of_several_captions_is_what_is_limited():
  row = _IMAGE | {"captions": ["a caption", "b"]}
  assert not limits.broken(row, config_lib.Ingest(min_caption=5))
  ((reason, _),) = limits.broken(row, config_lib.Ingest(min_caption=10))
  assert reason == "caption"
