"""Pieces: long clips are cut or refused by name, never shortened."""

import dataclasses

import numpy as np
import pytest

from video_dit import config
from video_dit.data import pieces as pieces_lib

_DATA = config.Data(row_length=1024, row_text=256, long="refuse")


def _cut(t, h, w, text, **changes) -> pieces_lib.Pieces:
  data = dataclasses.replace(_DATA, **changes)
  arrays = [np.asarray(x, np.int32) for x in (t, h, w, text)]
  return pieces_lib.cut(*arrays, data=data, patch=(1, 2, 2), name="key{}".format)


def test_runs_are_of_whole_tokens_and_have_room_for_the_empty_caption():
  data = config.Data(row_length=8, row_text=16, long="split")
  arrays = [np.asarray([x], np.int32) for x in (12, 2, 2, 1)]
  pieces = pieces_lib.cut(*arrays, data=data, patch=(2, 1, 1), empty_tokens=3)
  np.testing.assert_array_equal(pieces.first, [0, 4, 8])
  np.testing.assert_array_equal(pieces.count, [4, 4, 4])
  np.testing.assert_array_equal(pieces.text_tokens, [3, 3, 3])


def test_long_clips_are_cut_in_even_runs_of_whole_frames():
  pieces = _cut([5, 21, 1], [8, 32, 4], [8, 32, 4], [3, 9, 1], long="split")
  np.testing.assert_array_equal(pieces.clip, [0, 1, 1, 1, 1, 1, 1, 2])
  np.testing.assert_array_equal(pieces.run, [0, 0, 1, 2, 3, 4, 5, 0])
  np.testing.assert_array_equal(pieces.count, [5, 3, 4, 3, 4, 3, 4, 1])
  np.testing.assert_array_equal(pieces.first, [0, 0, 3, 7, 10, 14, 17, 0])
  np.testing.assert_array_equal(pieces.tokens[1:7], pieces.count[1:7] * 256)
  np.testing.assert_array_equal(pieces.text_tokens, [3] + [9] * 6 + [1])


def test_cutting_keeps_every_frame_of_any_clip():
  rng = np.random.default_rng(0)
  t, h, w = rng.integers(1, 300, 200), 2 * rng.integers(1, 20, 200), np.full(200, 16)
  pieces = _cut(t, h, w, np.ones(200), long="split")
  assert pieces.tokens.max() <= _DATA.row_length
  assert pieces.count.min() > 0
  np.testing.assert_array_equal(np.bincount(pieces.clip, pieces.count), t)


@pytest.mark.parametrize(
  ("clip", "changes", "message"),
  [
    ((21, 32, 32, 3), {}, r"key1 .*5376 tokens.*row_length=1024.*data.long=split"),
    ((1, 80, 80, 3), {"long": "split"}, r"key1 .*frame alone.*max_pixels"),
    ((1, 4, 4, 300), {}, r"key1 .*caption 300 tokens.*Raise data.row_text"),
    ((1, 3, 4, 3), {}, r"key1 .*multiple of dit.patch \(1, 2, 2\)"),
  ],
)
def test_what_fits_no_row_is_refused_by_name(clip, changes, message):
  t, h, w, text = zip((1, 4, 4, 1), clip, strict=True)
  with pytest.raises(ValueError, match=message):
    _cut(t, h, w, text, **changes)
