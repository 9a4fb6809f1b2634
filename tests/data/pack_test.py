"""The packer: everything once, within the limits, well filled, of equal work."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.data import mixes
from video_dit import config
from video_dit.data import balance, fit, pack, search

_DATA = config.Data(
  rows=4, row_length=1024, row_segments=24, row_text=256, lookahead=64, long="refuse"
)


def _mix(num: int, seed: int = 0) -> mixes.Clips:
  """Images and clips of many sizes, with captions."""
  rng = np.random.default_rng(seed)
  tokens = rng.choice([16, 24, 40, 60, 96, 144, 240, 320, 512], num)
  return tokens.astype(np.int32), rng.integers(1, 24, num).astype(np.int32)


def _random(seed: int) -> tuple[np.ndarray, np.ndarray, config.Data]:
  """A set and the limits of a row, all drawn."""
  rng = np.random.default_rng(seed)
  num, row, row_text = (int(rng.integers(1, most)) for most in (700, 3000, 300))
  least = int(rng.integers(1, row + 1))
  tokens = (
    rng.integers(least, row + 1, num)
    if seed % 2
    else rng.choice(rng.integers(1, row + 1, 9), num)
  )
  data = config.Data(
    rows=2 * int(rng.integers(1, 9)),
    row_length=row,
    row_segments=int(rng.integers(1, 40)),
    row_text=row_text,
    lookahead=int(np.exp(rng.uniform(0, 7))),
    balance_rows=int(rng.integers(1, 3)),
  )
  return tokens.astype(np.int32), rng.integers(0, row_text + 1, num), data


def _assert_whole(rows: list[np.ndarray], tokens, text, data: config.Data):
  """Every clip is in one row, within its limits."""
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(tokens)))
  assert all(0 < len(row) <= data.row_segments for row in rows)
  assert all(tokens[row].sum() <= data.row_length for row in rows)
  assert all(text[row].sum() <= data.row_text for row in rows)


@pytest.mark.parametrize("seed", range(24))
def test_every_clip_is_in_one_row_within_its_limits(seed):
  tokens, text, data = _random(seed)
  for shuffle in (True, False):
    plan = pack.plan_epoch(tokens, text, data, 1, 2, head=seed % 3, shuffle=shuffle)
    rows = [plan.row(i) for i in range(len(plan))]
    _assert_whole(rows, tokens, text, data)
    assert plan.fill == pytest.approx(tokens.sum() / (len(plan) * data.row_length))
    squares = [np.square(tokens[row], dtype=np.int64).sum() for row in rows]
    np.testing.assert_array_equal(plan.work, squares)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("way", [fit.fit, search.search])
def test_both_ways_to_fill_rows_keep_the_limits(way, seed):
  tokens, text, data = _random(seed)
  places, starts = way(tokens, text, data)
  _assert_whole(np.split(places, starts[1:-1]), tokens, text, data)


@pytest.mark.parametrize("row_length", [32_768, 65_536])
def test_a_mix_of_images_and_clips_fills_99_percent_and_balances_to_1_percent(row_length):
  tokens, text = mixes.web(20_000)
  for rows, group in ((8, 1), (64, 8)):
    data = config.Data(rows=rows, row_length=row_length, balance_rows=group)
    plan = pack.plan_epoch(tokens, text, data, 0, 0)
    assert plan.fill >= 0.99
    whole = len(plan) // rows * rows
    uneven = balance.imbalance(np.reshape(plan.work[:whole], (-1, rows)), rows // group)
    assert np.mean(uneven) < 0.01
    assert np.quantile(uneven, 0.95) < 0.01


def test_the_demo_fills_99_percent():
  tokens, text = mixes.shapes(2_000)
  longer = config.Data(
    rows=8, row_length=208, row_segments=10, row_text=144, lookahead=256
  )
  for data in (mixes.demo(), longer):
    for epoch in range(3):
      assert pack.plan_epoch(tokens, text, data, 0, epoch).fill >= 0.99


def test_steps_are_as_mixed_as_their_balance_allows():
  """Eight rows a device need no like rows in a step; one row a device does."""
  tokens, text = mixes.web(20_000)
  spread = {}
  for group in (1, 8):
    data = config.Data(rows=64, row_length=65_536, balance_rows=group)
    plan = pack.plan_epoch(tokens, text, data, 0, 0)
    means = np.reshape(plan.work[: len(plan) // 64 * 64], (-1, 64)).mean(axis=1)
    spread[group] = means.std() / means.mean()
  plain = plan.work.std() / plan.work.mean() / 64**0.5
  assert spread[8] < 1.5 * plain < 4 * plain < spread[1]


def test_sorted_steps_come_in_no_order_of_their_work():
  work = np.arange(1.0, 801.0)
  arranged = balance.arrange(work, 4, 1, 0, 400.0, np.random.default_rng(0))
  steps = work[arranged[:796]].reshape(-1, 4)
  assert np.median(np.ptp(steps, axis=1)) < 20  # each has like rows
  means = steps.mean(axis=1)
  assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


@pytest.mark.parametrize("head", range(4))
def test_rows_of_one_level_share_the_steps_with_the_epochs_beside(head):
  num, level = 101, 40.0
  work = np.arange(1.0, num + 1.0)
  arranged = balance.arrange(work, 4, 1, head, level, np.random.default_rng(0))
  np.testing.assert_array_equal(np.sort(arranged), np.arange(num))
  rest = (num - head) % 4
  ends = work[np.r_[arranged[:head], arranged[num - rest :]]]
  assert np.abs(ends - level).max() <= 8
  steps = work[arranged[head : num - rest]].reshape(-1, 4)
  assert np.ptp(steps, axis=1).max() < 10


def test_much_text_waits_for_the_next_row():
  tokens = np.full(300, 8, np.int32)
  text = np.full(300, 100, np.int32)
  plan = pack.plan_epoch(tokens, text, _DATA, 0, 0)
  assert [len(plan.row(i)) for i in range(len(plan))] == [2] * 150


def test_held_out_rows_come_in_the_order_of_their_first_clips():
  tokens, text = _mix(4000)
  plan = pack.plan_epoch(tokens, text, _DATA, 0, 0, shuffle=False)
  first = [plan.row(i).min() for i in range(len(plan))]
  assert first == sorted(first)


def test_plans_differ_by_seed_and_epoch_alone():
  tokens, text = _mix(500)
  plans = [
    pack.plan_epoch(tokens, text, _DATA, *at).order for at in ((0, 0), (0, 1), (1, 0))
  ]
  again = pack.plan_epoch(tokens, text, _DATA, 0, 1).order
  np.testing.assert_array_equal(plans[1], again)
  assert not any(np.array_equal(plans[0], other) for other in plans[1:])


def test_the_epoch_before_decides_the_order_of_rows_and_nothing_else():
  tokens, text = _mix(500)
  rows = []
  for head in range(_DATA.rows):
    plan = pack.plan_epoch(tokens, text, _DATA, 0, 1, head=head)
    rows.append({tuple(plan.row(i)) for i in range(len(plan))})
    # From `head` on, each step has rows of one level of work; within two percent here,
    # for the set is small.
    steps = (len(plan) - head) // _DATA.rows
    work = plan.work[head : head + steps * _DATA.rows]
    uneven = balance.imbalance(np.reshape(work, (steps, _DATA.rows)), _DATA.rows)
    assert np.median(uneven) < 0.05
  assert all(others == rows[0] for others in rows)


def test_one_clip_makes_one_row():
  one = np.ones(1, np.int32)
  for shuffle in (True, False):
    plan = pack.plan_epoch(
      one, one, dataclasses.replace(_DATA, lookahead=1), 0, 0, shuffle=shuffle
    )
    assert len(plan) == 1 and plan.row(0) == [0]


def test_the_benchmark_refuses_clips_that_make_no_step():
  command = [sys.executable, "-m", "tests.benchmarks.packing", "--clips=400"]
  done = subprocess.run([*command, "--ways=buckets"], capture_output=True, text=True)
  assert done.returncode != 0
  assert "--clips=400: 'buckets by size' makes no whole step of --rows=64" in done.stderr


@pytest.mark.parametrize(
  ("tokens", "text", "said"),
  [
    # Images of 16 tokens with captions of 16: a row's text is full before it is.
    (16, 16, "captions fill 100% of data.row_text=256: full rows need about"),
    (16, 2, "as many clips fill 100% of data.row_segments=24: full rows need about"),
    (600, 2, "by the clips' lengths"),
    (64, 2, ""),  # full
  ],
)
def test_what_leaves_rows_empty_is_named(tokens, text, said):
  clips = np.full(480, tokens), np.full(480, text)
  plan = pack.plan_epoch(*clips, _DATA, 0, 0)
  found = pack.limit(plan, _DATA)
  assert found.startswith(said) and bool(found) == bool(said)
  if needed := re.findall(r"data\.(\w+)=(\d+)", found)[1:]:
    wider = dataclasses.replace(_DATA, **{key: int(value) for key, value in needed})
    assert pack.plan_epoch(*clips, wider, 0, 0).fill > 0.9


def test_one_row_of_few_clips_has_no_limit_to_raise():
  plan = pack.plan_epoch(np.array([16, 16]), np.array([16, 16]), _DATA, 0, 0)
  assert not pack.limit(plan, _DATA)
