"""Requests: what the grid has a place for, and what is said of the rest."""

import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.generator import request as request_lib

GRID = config_lib.Grid(space=4, time=4, patch=(1, 2, 2))


def make(**changes) -> request_lib.Request:
  values = {"prompt": "a clip", "height": 32, "width": 48, "frames": 9} | changes
  return request_lib.Request(**values)


def test_extents_on_the_grid():
  assert GRID.latent(32, 48, 9) == (3, 8, 12)
  assert GRID.tokens(32, 48, 9) == (3, 4, 6)
  assert GRID.tokens(32, 48, 1) == (1, 4, 6)


@pytest.mark.parametrize("frames, latents", [(1, 1), (5, 2), (9, 3), (121, 31)])
def test_lengths_that_fit(frames, latents):
  make(frames=frames).check(GRID)
  assert GRID.latent_frames(frames) == latents


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"height": 30}, "height=30 must be a multiple of 8 pixels. Nearest: 24 or 32."),
    ({"width": 0}, "width=0 must be a multiple of 8 pixels. Nearest: 8."),
    ({"width": -8}, "width=-8 must be a multiple of 8 pixels. Nearest: 8."),
    ({"frames": 8}, r"frames=8 must be 1 \+ a multiple of 4. Nearest: 5 or 9."),
    ({"frames": 0}, r"frames=0 must be 1 \+ a multiple of 4. Nearest: 1."),
    ({"frames_per_second": 0}, "frames_per_second=0"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 2**64}, "seed=18446744073709551616"),
    ({"guidance": float("nan")}, "guidance=nan"),
  ],
)
def test_refusals_name_value_rule_and_nearest(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes).check(GRID)


def test_a_patch_of_two_latent_frames_has_no_images():
  grid = config_lib.Grid(space=4, time=4, patch=(2, 2, 2))
  make(frames=5).check(grid)
  make(frames=13).check(grid)
  with pytest.raises(ValueError, match=r"frames=1 must be 5 \+ a multiple of 8"):
    make(frames=1).check(grid)


def test_given_frames_fit_the_grid_and_leave_something_to_make():
  frames = np.zeros((9, 32, 48, 3), np.uint8)
  make(given_FHWC=frames[:1]).check(GRID)
  make(given_FHWC=frames[:5]).check(GRID)
  with pytest.raises(ValueError, match=r"4 given frames.*Nearest: 1 or 5"):
    make(given_FHWC=frames[:4]).check(GRID)
  with pytest.raises(ValueError, match="9 given frames"):
    make(given_FHWC=frames).check(GRID)
  with pytest.raises(ValueError, match="must be uint8"):
    make(given_FHWC=frames[:1, :8]).check(GRID)
