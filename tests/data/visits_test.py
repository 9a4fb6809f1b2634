"""Visits: each record as often as its set's weight says, spread evenly."""

import numpy as np
import pytest

from video_dit.data import visits, windows

SET_OF = np.array([0] * 7 + [1] * 40 + [2] * 3)[np.random.default_rng(0).permutation(50)]
WEIGHTS = (2.5, 0.3, 1.0)


def test_records_are_visited_as_often_as_their_weights_say():
  found = visits.Visits(SET_OF, WEIGHTS, seed=1)
  counts = np.stack([found.counts(epoch) for epoch in range(40)])
  for number, weight in enumerate(WEIGHTS):
    mine = counts[:, number == SET_OF]
    assert mine.min() == int(weight) and mine.max() == -(-weight // 1)
    # Of each record over the epochs, and of each epoch over the records.
    assert (np.abs(mine.cumsum(axis=0).T - weight * np.arange(1, 41)) < 1).all()
    assert (np.abs(mine.sum(axis=1) - weight * mine.shape[1]) < 1).all()
  assert [found.before(epoch) for epoch in range(41)] == [
    0,
    *np.cumsum(counts.sum(axis=1)),
  ]


def test_visits_are_a_function_of_the_epoch_and_the_seed():
  first, again, other = (visits.Visits(SET_OF, WEIGHTS, seed=s) for s in (1, 1, 2))
  np.testing.assert_array_equal(first.counts(7), again.counts(7))
  assert (first.counts(7) != other.counts(7)).any()
  assert (first.counts(7) != first.counts(8)).any()


def test_a_weight_of_one_is_once_an_epoch():
  assert (visits.Visits(SET_OF, (1.0, 1.0, 1.0), seed=0).counts(9) == 1).all()


def test_late_epochs_are_as_exact():
  found = visits.Visits(np.zeros(1000, int), (1 / 3,), seed=0)
  late = 3 * 10**9
  assert sum(found.counts(late + i) for i in range(3)).tolist() == [1] * 1000
  assert found.before(late) == 10**12


def test_epochs_without_clips_are_refused():
  with pytest.raises(
    ValueError, match=r"data.weights=\(0.1, 0.2\).*\[3, 4\] clips.*Raise"
  ):
    visits.Visits(np.array([0] * 3 + [1] * 4), (0.1, 0.2), seed=0)


def test_windows_follow_the_visits():
  found = visits.Visits(SET_OF, WEIGHTS, seed=1)
  order = windows.Order(len(SET_OF), 4, seed=0, visits=found)
  walked = [i for step in range(100) for i in order(step)]
  for epoch in range(8):
    part = walked[found.before(epoch) : found.before(epoch + 1)]
    counts = np.bincount(part, minlength=len(SET_OF))
    np.testing.assert_array_equal(counts, found.counts(epoch))
  fresh = windows.Order(len(SET_OF), 4, seed=0, visits=found)
  assert fresh(77) == walked[4 * 77 : 4 * 78]
