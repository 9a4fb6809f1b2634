"""Keys in few bytes: what a set of Python's does."""

import numpy as np
import pytest

from tests.data import clips
from video_dit.data import keys as keys_lib


@pytest.mark.parametrize("recent", [0, 7, 1000])
def test_keys_are_those_of_a_set(recent, monkeypatch):
  monkeypatch.setattr(keys_lib, "_RECENT", recent)
  rng = np.random.default_rng(0)
  names = [clips.key(i) for i in range(60)]
  first = [np.array(names[:5], "S32"), np.array(names[3:9], "S32")]
  found, expected = keys_lib.Keys(first), set(names[:9])
  for turn in range(12):
    some = [names[i] for i in rng.integers(0, 60, 8)]
    if turn % 3 == 2:
      found.remove(some)
      expected -= set(some)
    else:
      found.add(some)
      expected |= set(some)
    assert len(found) == len(expected)
    assert [name in found for name in names] == [name in expected for name in names]
    assert found.has(names).tolist() == [name in expected for name in names]


def test_without_keys_there_is_none():
  none = keys_lib.Keys()
  assert len(none) == 0 and clips.key(0) not in none
  assert not none.has([clips.key(0)]).any() and none.has([]).tolist() == []
