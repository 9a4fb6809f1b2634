"""The rows of every step: a function of the step, across epochs and restarts."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from video_dit import config
from video_dit.data import pack
from video_dit.data import pieces as pieces_lib
from video_dit.data import steps as steps_lib

_DATA = config.Data(
  rows=4, row_length=1024, row_segments=24, row_text=256, lookahead=64, long="refuse"
)


def _pieces(num: int) -> pieces_lib.Pieces:
  rng = np.random.default_rng(0)
  tokens = rng.choice([16, 24, 40, 60, 96, 144, 240, 320, 512], num)
  one, text = np.ones_like(tokens), rng.integers(1, 24, num)
  return pieces_lib.cut(tokens, one, one, text, data=_DATA, patch=(1, 1, 1))


def test_steps_run_through_the_epochs_without_a_gap():
  pieces = _pieces(301)
  steps = steps_lib.Steps(pieces, _DATA, seed=3)
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


def test_steps_of_later_epochs_are_of_equal_work_too():
  data, pieces = dataclasses.replace(_DATA, balance_rows=1), _pieces(1001)
  steps = steps_lib.Steps(pieces, data, seed=3)
  first, second = (len(steps.plan(epoch)) for epoch in range(2))
  assert first % data.rows  # the second epoch begins within a step
  uneven = []
  for step in range(first // data.rows + 1, (first + second) // data.rows):
    work = [
      np.square(pieces.tokens[row.pieces], dtype=float).sum()
      for row in steps.rows_for_step(step)
    ]
    uneven.append(max(work) / np.mean(work) - 1)
  assert np.median(uneven) < 0.05


def test_a_step_is_the_same_from_any_start():
  pieces = _pieces(301)
  walked = steps_lib.Steps(pieces, _DATA, seed=3)
  for step in range(35):
    expected = walked.rows_for_step(step)
  # The last is of a step that lies behind.
  for known in ({}, walked.known(34), walked.known(20), walked.known(60)):
    jumped = steps_lib.Steps(pieces, _DATA, seed=3)
    jumped.learn(known)
    for row, other in zip(jumped.rows_for_step(34), expected, strict=True):
      assert row.epoch == other.epoch
      np.testing.assert_array_equal(row.pieces, other.pieces)
    np.testing.assert_array_equal(jumped.plan(1).order, walked.plan(1).order)


def test_a_restart_plans_no_epoch_that_is_over(monkeypatch):
  walked = steps_lib.Steps(_pieces(301), _DATA, seed=3)
  epoch = walked.rows_for_step(60)[0].epoch
  assert epoch > 2
  planned = []

  def plan(*args, **kwargs):
    planned.append(args[-1])
    return pack_epoch(*args, **kwargs)

  pack_epoch = pack.plan_epoch
  monkeypatch.setattr(pack, "plan_epoch", plan)
  restarted = steps_lib.Steps(_pieces(301), _DATA, seed=3)
  restarted.learn(json.loads(json.dumps(walked.known(60))))
  assert restarted.rows_for_step(60)[0].epoch == epoch
  assert set(planned) <= {epoch, epoch + 1}


def test_epochs_of_other_rows_are_planned_again():
  expected = steps_lib.Steps(_pieces(301), _DATA, seed=3).rows_for_step(34)
  other_data = dataclasses.replace(_DATA, rows=6)
  sizes, texts = (
    dataclasses.replace(_pieces(301), **{name: getattr(_pieces(301), name) + 1})
    for name in ("tokens", "text_tokens")
  )
  for pieces, data, seed in (
    (_pieces(300), _DATA, 3),
    (_pieces(301), other_data, 3),
    (_pieces(301), _DATA, 4),
    (sizes, _DATA, 3),
    (texts, _DATA, 3),
  ):
    other = steps_lib.Steps(pieces, data, seed=seed)
    other.rows_for_step(60)
    steps = steps_lib.Steps(_pieces(301), _DATA, seed=3)
    # As if its epochs had other numbers of rows, which some have not by chance.
    steps.learn(other.known(60) | {"rows_before": 1})
    for row, wanted in zip(steps.rows_for_step(34), expected, strict=True):
      np.testing.assert_array_equal(row.pieces, wanted.pieces)


def test_a_set_smaller_than_a_step_repeats_by_epochs():
  steps = steps_lib.Steps(_pieces(3), _DATA, seed=0)
  rows = steps.rows_for_step(5)
  assert len(rows) == 4
  assert len({row.epoch for row in rows}) > 1
  assert steps.report()["clips"] == 3


def test_the_work_of_a_step_is_that_of_its_own_epochs():
  steps = steps_lib.Steps(_pieces(1), _DATA, seed=0)
  calls = []

  def work(step: int) -> int:
    calls.clear()
    sys.setprofile(lambda _, event, __: calls.append(event))
    try:
      rows = steps.rows_for_step(step)
    finally:
      sys.setprofile(None)
    assert [row.epoch for row in rows] == list(range(4 * step, 4 * step + 4))
    return len(calls)

  early = work(1)
  for step in range(2, 200):
    steps.rows_for_step(step)
  assert work(200) < 1.5 * early
  assert len(json.dumps(steps.known(200))) < 200


def test_nothing_to_pack_is_refused():
  none = np.zeros(0, np.int32)
  pieces = pieces_lib.cut(none, none, none, none, data=_DATA, patch=(1, 1, 1))
  with pytest.raises(ValueError, match="no clips to pack"):
    steps_lib.Steps(pieces, _DATA, 0)
