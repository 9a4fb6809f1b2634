"""The block map: exactly the blocks that share a segment, whatever the row."""

import numpy as np

from video_dit.parallel.kernels import blocks


def _shared(segments, key_segments, block, key_block):
  """Pairs of blocks with a segment in common, one by one."""
  return np.array(
    [
      [
        [
          bool((set(row[i : i + block]) & set(keys[j : j + key_block])) - {0})
          for j in range(0, len(keys), key_block)
        ]
        for i in range(0, len(row), block)
      ]
      for row, keys in zip(segments, key_segments, strict=True)
    ]
  )


def _visited(found: blocks.BlockMap, count: int):
  """Pairs of blocks between a first and a last one."""
  places = np.arange(count)
  first, last = np.asarray(found.first_RI), np.asarray(found.last_RI)
  return (places >= first[..., None]) & (places < last[..., None])


def _packed(rng, rows, length, segments):
  """Rows of runs numbered from 1."""
  cuts = rng.integers(0, length, (rows, 1, segments))
  return 1 + (np.arange(length)[None, :, None] >= cuts).sum(-1)


def test_packed_rows_visit_the_blocks_that_share_a_segment_and_no_others():
  rng = np.random.default_rng(0)
  segments = _packed(rng, 16, 96, 6)
  segments[::2, -20:] = 0
  found = blocks.block_map(segments, segments, 8, 4)
  shared = _shared(segments, segments, 8, 4)
  visited = _visited(found, shared.shape[2])
  np.testing.assert_array_equal(visited, shared)
  assert found.visits == shared.sum()


def test_rows_in_any_order_visit_at_least_the_blocks_that_share_a_segment():
  rng = np.random.default_rng(1)
  segments = rng.integers(0, 5, (16, 32))
  key_segments = rng.integers(0, 5, (16, 24))
  found = blocks.block_map(segments, key_segments, 4, 4)
  shared = _shared(segments, key_segments, 4, 4)
  visited = _visited(found, shared.shape[2])
  assert (visited | ~shared).all()


def test_padding_visits_nothing_and_is_visited_by_nothing():
  segments = np.array([[1, 1, 1, 1, 0, 0, 0, 0]])
  found = blocks.block_map(segments, segments, 2, 2)
  assert np.asarray(found.last_RI - found.first_RI).tolist() == [[2, 2, 0, 0]]
  assert np.asarray(found.last_RI).max() == 2


def test_a_block_is_whole_where_one_segment_fills_it():
  segments = np.array([[1, 1, 1, 2, 2, 2, 0, 0, 3, 0]])
  assert np.asarray(blocks.whole(segments, 2, -1)).tolist() == [[1, -1, 2, -1, -1]]


def test_the_run_without_masks_is_that_of_the_blocks_that_one_segment_fills():
  rng = np.random.default_rng(2)
  packed = _packed(rng, 16, 96, 4)
  packed[::2, -20:] = 0
  mixed = rng.integers(0, 3, (16, 12)).repeat(8, axis=1)
  for segments in (packed, mixed):
    found = blocks.block_map(segments, segments, 8, 4)
    first, whole, behind, last = np.moveaxis(
      np.asarray(blocks.runs(segments, segments, 8, 4)), -1, 0
    )
    np.testing.assert_array_equal(first, found.first_RI)
    np.testing.assert_array_equal(last, found.last_RI)
    assert ((first <= whole) & (whole <= behind) & (behind <= last)).all()
    mine, keys = segments.reshape(16, 12, 8), segments.reshape(16, 24, 4)
    for r, i in np.ndindex(16, 12):
      number = mine[r, i, 0]
      same = (mine[r, i] == number).all() & (number > 0)
      full = np.flatnonzero((keys[r] == number).all(-1)) if same else np.array([])
      together = len(full) > 0 and full[-1] - full[0] + 1 == len(full)
      wanted = range(full[0], full[-1] + 1) if together else range(0)
      assert list(range(whole[r, i], behind[r, i])) == list(wanted)
