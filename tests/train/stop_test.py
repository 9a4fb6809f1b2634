"""Signals: the first asks a run to end, the second ends it."""

import itertools
import os
import signal

import pytest

from video_dit.train import stop

_BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def ended():
  """Names of the signals that came through to the handlers from before."""
  came: list[str] = []
  old = {n: signal.signal(n, lambda n, _: came.append(n)) for n in _BOTH}
  yield came
  for number, handler in old.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(_BOTH, repeat=2)))
def test_the_first_asks_and_the_second_ends_whichever_they_are(
  first, second, ended, capfd
):
  with stop.Stop() as stopping:
    assert not stopping.asked(1)
    os.kill(os.getpid(), first)
    assert stopping.asked(2) and stopping.name == first.name and not ended
    os.kill(os.getpid(), second)
    assert ended == [second]
  said = capfd.readouterr().err
  assert said.count(f"{first.name}: the run stops after this step") == 1
