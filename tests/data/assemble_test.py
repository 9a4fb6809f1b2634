"""Assembled rows: each segment's own latents, positions, key and caption."""

import dataclasses

import numpy as np
import pytest

from tests.data import clips
from video_dit import config
from video_dit.data import assemble, patchify

_DIT = config.DiT(patch=(1, 2, 2))
_DATA = config.Data(row_length=128, row_segments=6, row_text=32, caption_dropout=0.0)


def _segments(num: int) -> list[assemble.Segment]:
  return [assemble.Segment(r, 0, len(r.latent)) for r, _ in clips.records(num)]


def _assemble(rows, *, seed=0, step=0, **changes):
  data = dataclasses.replace(_DATA, **changes)
  return assemble.assemble(rows, clips.metadata(), data, _DIT, seed=seed, step=step)


def test_each_segment_holds_its_own_clip():
  segments = _segments(5)
  batch = _assemble([segments[:3], segments[3:], []])
  for r, row in enumerate((segments[:3], segments[3:])):
    for s, segment in enumerate(row):
      record = segment.record
      here, there = batch.segments[r] == s + 1, batch.text_segments[r] == s + 1
      grid = patchify.grid(record.latent.shape[:3], _DIT.patch)
      latent = patchify.unpatchify(batch.patches[r, here], grid, _DIT.patch)
      np.testing.assert_array_equal(latent, record.latent)
      np.testing.assert_array_equal(batch.text[r, there], record.text)
      np.testing.assert_array_equal(
        batch.positions[r, here],
        patchify.positions(grid, dit=_DIT, time=4, frames_per_second=8.0),
      )
      np.testing.assert_array_equal(
        batch.frames[r, here], patchify.frames(grid, _DIT.patch)
      )
      assert batch.tokens[r, s] == here.sum() == np.prod(grid)
      assert batch.weights[r, s] == 1
      assert f"{batch.keys[r, s, 0]:08x}{batch.keys[r, s, 1]:08x}" == record.key[:16]


def test_padding_is_zero():
  batch = _assemble([_segments(3), []])
  for name in ("patches", "positions", "frames"):
    assert not getattr(batch, name)[batch.segments == 0].any()
  assert not batch.text[batch.text_segments == 0].any()
  for name in ("keys", "tokens", "weights"):
    assert not getattr(batch, name)[0, 3:].any()
    assert not getattr(batch, name)[1].any()


def test_a_gap_leaves_the_others_where_they_are():
  segments = _segments(3)
  whole = _assemble([segments])
  tokens = int(whole.tokens[0, 1])
  found = _assemble([[segments[0], assemble.Gap(tokens), segments[2]]])
  np.testing.assert_array_equal(found.segments, whole.segments)
  theirs, others = whole.segments[0] == 2, whole.segments[0] != 2
  for name in ("patches", "positions", "frames"):
    np.testing.assert_array_equal(
      getattr(found, name)[0, others], getattr(whole, name)[0, others]
    )
    assert not getattr(found, name)[0, theirs].any()
  for name in ("keys", "tokens", "weights"):
    expected = getattr(whole, name).copy()
    expected[0, 1] = 0
    np.testing.assert_array_equal(getattr(found, name), expected)
  for i in (0, 2):
    own = found.text[0][found.text_segments[0] == i + 1]
    np.testing.assert_array_equal(own, segments[i].record.text)
  assert not (found.text_segments == 2).any()


def test_axes_and_types():
  batch = _assemble([_segments(3)] * 2)
  found = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
  assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
    "patches": ((2, 128, 12), "float16"),
    "segments": ((2, 128), "int32"),
    "positions": ((2, 128, 3), "float32"),
    "frames": ((2, 128), "int32"),
    "keys": ((2, 6, 2), "uint32"),
    "tokens": ((2, 6), "int32"),
    "weights": ((2, 6), "float32"),
    "text": ((2, 32, clips.TEXT_WIDTH), "float16"),
    "text_segments": ((2, 32), "int32"),
  }


def test_runs_of_a_clip_continue_it_under_keys_of_their_own():
  record = next(r for r, _ in clips.records(20) if len(r.latent) == 5)
  runs = [assemble.Segment(record, 0, 2, 0), assemble.Segment(record, 2, 3, 1)]
  whole = _assemble([[assemble.Segment(record, 0, 5)]])
  split = _assemble([runs])
  for name in ("patches", "positions", "frames"):
    np.testing.assert_array_equal(getattr(split, name), getattr(whole, name))
  keys = split.keys[0]
  np.testing.assert_array_equal(keys[0], whole.keys[0, 0])
  assert (keys[0] != keys[1]).any()
  keys = [assemble.segment_key(record.key, run).tolist() for run in range(5)]
  assert len(set(map(tuple, keys))) == 5


def test_dropped_captions_are_the_empty_one_at_the_rate_asked_for():
  segments = _segments(5)
  batches = [_assemble([segments], step=step, caption_dropout=0.3) for step in range(200)]
  kept = np.array([[(b.text_segments == s + 1).sum() for s in range(5)] for b in batches])
  dropped = np.array(
    [
      [(b.text[0][b.text_segments[0] == s + 1] == -1).all() for s in range(5)]
      for b in batches
    ]
  )
  assert dropped.mean() == pytest.approx(0.3, abs=0.05)
  assert (kept[dropped] == 1).all()
  full = np.array([len(segment.record.text) for segment in segments])
  assert (np.where(dropped, full, kept) == full).all()


def test_dropout_depends_on_seed_step_and_key_alone():
  segments = _segments(5)
  together = _assemble([segments], caption_dropout=0.5, step=7)
  apart = _assemble([[segment] for segment in segments], caption_dropout=0.5, step=7)
  for i in range(5):
    np.testing.assert_array_equal(
      together.text[0][together.text_segments[0] == i + 1],
      apart.text[i][apart.text_segments[i] == 1],
    )
  key = assemble.segment_key(clips.key(0))
  draws = {assemble.draw(seed, step, key) for seed in range(4) for step in range(4)}
  assert len(draws) == 16
  assert all(0 <= draw < 1 for draw in draws)


def test_captions_are_drawn_anew_each_step_and_apart_from_the_dropout():
  record, _ = next(clips.records(1))
  other = np.full_like(record.text, 7)
  record = record.with_captions(["other"], [other], [1.0, 1.0])
  rows = [[assemble.Segment(record, 0, len(record.latent))]]
  data = dataclasses.replace(_DATA, caption_dropout=0.5)
  metadata = clips.metadata(several=True)
  batches = [
    assemble.assemble(rows, metadata, data, _DIT, seed=0, step=step)
    for step in range(400)
  ]
  first = np.array([batch.text[0, 0, 0] for batch in batches])
  kept = first[first != -1]  # of the empty caption
  assert 150 < len(kept) < 250
  assert 0.4 < (kept == 7).mean() < 0.6
