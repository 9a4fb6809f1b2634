"""Windows of pixels: where they lie, and every clip once an epoch."""

import numpy as np

from tests.data import clips
from video_dit import config
from video_dit.data import schema, windows

_DATA = config.Data(rows=4, window_frames=5, window_side=8)


def _record(frames: int, height: int, width: int, i: int = 0) -> schema.PixelRecord:
  """Every pixel tells its frame, row and column."""
  index = np.stack(np.indices((frames, height, width)), axis=-1).astype(np.uint8)
  return schema.PixelRecord(
    key=clips.key(i), clip=index, caption="", frames_per_second=8.0
  )


def _window(record, step=0, seed=0):
  return windows.window(record, _DATA, seed=seed, step=step)


def test_a_window_is_a_block_of_the_clip():
  corners = set()
  for step in range(60):
    clip = _window(_record(9, 20, 12), step)
    assert clip.shape == (5, 8, 8, 3)
    corners.add(tuple(clip[0, 0, 0].tolist()))
    offsets = clip - clip[:1, :1, :1]
    np.testing.assert_array_equal(offsets, np.moveaxis(np.indices((5, 8, 8)), 0, -1))
  assert {c[0] for c in corners} == set(range(5))
  assert {c[2] for c in corners} == set(range(5))
  assert {c[1] for c in corners} >= {0, 12}


def test_a_window_depends_on_seed_step_and_key():
  record, other = _record(9, 20, 12), _record(9, 20, 12, 1)

  def places(record, first=0, seed=0):
    """Where the windows of every tenth step lie."""
    found = [_window(record, first + 10 * i, seed) for i in range(5)]
    return [clip[0, 0, 0].tolist() for clip in found]

  assert places(record) == places(record)
  for others in (places(record, first=1), places(record, seed=1), places(other)):
    assert others != places(record)


def test_an_image_is_a_still_clip_and_a_short_one_holds_its_last_frame():
  clip = _window(_record(1, 8, 8))
  assert (clip == clip[:1]).all()
  clip = _window(_record(3, 8, 8))
  np.testing.assert_array_equal(clip[:, 0, 0, 0], [0, 1, 2, 2, 2])


def test_a_small_clip_repeats_its_edges():
  clip = _window(_record(5, 6, 8))
  np.testing.assert_array_equal(clip[0, :, 0, 1], [0, 1, 2, 3, 4, 5, 5, 5])


def test_every_clip_comes_once_an_epoch_from_any_start():
  order = windows.Order(10, 4, seed=0)
  walked = [order(step) for step in range(15)]
  flat = [i for step in walked for i in step]
  for epoch in range(6):
    assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))
  assert flat[:10] != flat[10:20]
  assert windows.Order(10, 4, seed=0)(12) == walked[12]
  assert windows.Order(10, 4, seed=1)(0) != walked[0]
