"""Shares and their intervals."""

import pytest

from video_dit.evaluate import share


def test_intervals_are_wilsons():
  low, high = share.Share(right=62, n=64).interval
  # Worked by hand from the formula.
  assert low == pytest.approx(0.8930, abs=5e-4)
  assert high == pytest.approx(0.9914, abs=5e-4)
  assert share.Share(right=0, n=10).interval[0] == pytest.approx(0.0)
  assert share.Share(right=10, n=10).interval[1] == pytest.approx(1.0)
  assert share.Share(right=10, n=10).interval[0] == pytest.approx(0.7225, abs=5e-4)


def test_nothing_measured_is_no_fraction():
  nothing = share.Share(right=0, n=0)
  assert nothing.fraction is None
  assert nothing.interval == (0.0, 1.0)
  assert nothing.to_json()["fraction"] is None
