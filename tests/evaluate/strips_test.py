"""Filmstrips."""

import numpy as np

from video_dit.evaluate import strips


def test_frames_of_a_pair_stand_above_each_other():
  wide = np.zeros((3, 36, 72, 3), np.uint8)
  both = strips.pair(wide, wide[:, :, :36])
  starts = [
    np.flatnonzero(np.diff(np.pad(row < 255, (1, 0)).astype(int)) == 1)
    for row in (both[0, :, 0], both[-1, :, 0])
  ]
  np.testing.assert_array_equal(*starts)
  assert len(starts[0]) == 3


def test_a_strip_holds_first_and_last_frame():
  frames = np.zeros((17, 24, 36, 3), np.uint8)
  frames += (np.arange(17, dtype=np.uint8) * 10)[:, None, None, None]
  strip = strips.strip(frames)
  assert strip.shape == (72, 6 * 108 + 5 * 3, 3)
  assert strip[0, ::111, 0].tolist() == [0, 30, 60, 100, 130, 160]


def test_a_strip_of_the_few_frames_that_are_kept_is_that_of_the_clip():
  rng = np.random.default_rng(0)
  for size in ((17, 24, 36), (17, 96, 128), (2, 72, 72), (1, 144, 80)):
    frames = rng.integers(0, 256, (*size, 3), np.uint8)
    few = strips.few(frames)
    assert len(few) <= 6 and few.shape[1] <= 72
    np.testing.assert_array_equal(strips.few(few), few)
    np.testing.assert_array_equal(strips.strip(few), strips.strip(frames))


def test_an_image_is_one_cell_and_large_frames_are_averaged():
  checks = np.zeros((1, 720, 1280, 3), np.uint8)
  checks[:, ::2] = 200
  strip = strips.strip(checks)
  assert strip.shape == (72, 128, 3)
  assert (abs(strip.astype(int) - 100) <= 1).all()


def test_stacks_keep_every_strip():
  wide, narrow = np.zeros((72, 50, 3), np.uint8), np.ones((72, 30, 3), np.uint8)
  both = strips.stack([wide, narrow])
  assert both.shape == (72 + 3 + 72, 50, 3)
  assert (both[75:, 30:] == 255).all() and (both[75:, :30] == 1).all()


def test_files_last_as_long_as_the_context():
  with strips.as_files([("a", np.zeros((4, 4, 3), np.uint8))]) as items:
    ((caption, path),) = items
    assert caption == "a" and path.read_bytes()[:4] == b"\x89PNG"
  assert not path.exists()
