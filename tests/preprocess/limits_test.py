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
