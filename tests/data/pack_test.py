"""The packer: everything once, within the limits, well filled, a function of the step."""

import dataclasses

import numpy as np
import pytest

from video_dit import config
from video_dit.data import pack
from video_dit.data import pieces as pieces_lib

_DATA = config.Data(
  rows=4, row_length=1024, row_segments=24, row_text=256, lookahead=64, long="refuse"
)


def _mix(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images and clips of many sizes, with captions."""
  rng = np.random.default_rng(seed)
  tokens = rng.choice([16, 24, 40, 60, 96, 144, 240, 320, 512], num)
  return tokens.astype(np.int32), rng.integers(1, 24, num).astype(np.int32)


def _pieces(num: int, seed: int = 0) -> pieces_lib.Pieces:
  tokens, text = _mix(num, seed)
  one = np.ones_like(tokens)
  return pieces_lib.cut(tokens, one, one, text, data=_DATA, patch=(1, 1, 1))


@pytest.mark.parametrize("lookahead", [1, 7, 64])
@pytest.mark.parametrize("num", [1, 5, 3000])
def test_every_clip_is_in_one_row_within_its_limits(num, lookahead):
  tokens, text = _mix(num)
  data = dataclasses.replace(_DATA, lookahead=lookahead)
  plan = pack.plan_epoch(tokens, text, data, seed=1, epoch=2)
  np.testing.assert_array_equal(np.sort(plan.order), np.arange(num))
  rows = [plan.row(i) for i in range(len(plan))]
  assert all(0 < len(row) <= data.row_segments for row in rows)
  assert all(tokens[row].sum() <= data.row_length for row in rows)
  assert all(text[row].sum() <= data.row_text for row in rows)
  assert plan.fill == pytest.approx(tokens.sum() / (len(plan) * data.row_length))


def test_a_mix_with_images_fills_99_percent():
  tokens, text = _mix(5000)
  for epoch in range(3):
    data = dataclasses.replace(_DATA, row_text=1024, row_segments=64)
    assert pack.plan_epoch(tokens, text, data, 0, epoch).fill >= 0.99


def test_much_text_waits_for_the_next_row():
  tokens = np.full(300, 8, np.int32)
  text = np.full(300, 100, np.int32)
  plan = pack.plan_epoch(tokens, text, _DATA, 0, 0)
  assert [len(plan.row(i)) for i in range(len(plan))] == [2] * 150


def test_no_clip_waits_longer_than_the_lookahead():
  tokens, text = _mix(4000)
  plan = pack.plan_epoch(tokens, text, _DATA, 0, 0, shuffle=False)
  late = plan.order - np.arange(len(plan.order))
  assert late.max() <= _DATA.lookahead
  for i in range(len(plan)):
    rest = plan.order[plan.starts[i] :]
    assert rest.min() in plan.row(i)


def test_plans_differ_by_seed_and_epoch_alone():
  tokens, text = _mix(500)
  plans = [
    pack.plan_epoch(tokens, text, _DATA, *at).order for at in ((0, 0), (0, 1), (1, 0))
  ]
  again = pack.plan_epoch(tokens, text, _DATA, 0, 1).order
  np.testing.assert_array_equal(plans[1], again)
  assert not any(np.array_equal(plans[0], other) for other in plans[1:])


def test_steps_run_through_the_epochs_without_a_gap():
  pieces = _pieces(301)
  steps = pack.Steps(pieces, _DATA, seed=3)
  rows = [row for step in range(60) for row in steps.rows_for_step(step)]
  per_epoch = {}
  for row in rows:
    per_epoch.setdefault(row.epoch, []).extend(row.pieces.tolist())
  epochs = sorted(per_epoch)
  assert epochs == list(range(len(epochs))) and len(epochs) > 3
  for epoch in epochs[:-1]:
    assert sorted(per_epoch[epoch]) == list(range(301))
  # Some step holds the end of one epoch and the start of the next.
  assert any(
    len({row.epoch for row in rows[4 * step : 4 * step + 4]}) == 2 for step in range(60)
  )


def test_a_step_is_the_same_from_any_start():
  pieces = _pieces(301)
  walked = pack.Steps(pieces, _DATA, seed=3)
  for step in range(35):
    expected = walked.rows_for_step(step)
  for epoch_rows in ((), walked.epoch_rows):
    jumped = pack.Steps(pieces, _DATA, seed=3, epoch_rows=epoch_rows)
    for row, other in zip(jumped.rows_for_step(34), expected, strict=True):
      assert row.epoch == other.epoch
      np.testing.assert_array_equal(row.pieces, other.pieces)


def test_a_set_smaller_than_a_step_repeats_by_epochs():
  steps = pack.Steps(_pieces(3), _DATA, seed=0)
  rows = steps.rows_for_step(5)
  assert len(rows) == 4
  assert len({row.epoch for row in rows}) > 1
  assert steps.report()["clips"] == 3


def test_nothing_to_pack_is_refused():
  none = np.zeros(0, np.int32)
  pieces = pieces_lib.cut(none, none, none, none, data=_DATA, patch=(1, 1, 1))
  with pytest.raises(ValueError, match="no clips to pack"):
    pack.Steps(pieces, _DATA, 0)
