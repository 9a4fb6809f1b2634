"""Signals: the first asks a run to end, the second ends it."""

import itertools
import os
import signal
import subprocess
import sys

import pytest

from video_dit.train import stop

_BOTH = (signal.SIGINT, signal.SIGTERM)
_ALL = (*_BOTH, signal.SIGHUP)


@pytest.fixture
def ended():
  """Names of the signals that came through to the handlers from before."""
  came: list[str] = []
  old = {n: signal.signal(n, lambda n, _: came.append(n)) for n in _ALL}
  yield came
  for number, handler in old.items():
    signal.signal(number, handler)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(_ALL, _BOTH)))
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


def test_under_nohup_a_closing_terminal_stops_nothing():
  old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with stop.Stop() as stopping:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stopping.asked(1)
  finally:
    signal.signal(signal.SIGHUP, old)


def test_a_run_saves_after_its_terminal_was_closed(tmp_path):
  code = f"""
import pathlib, signal, sys, time
from video_dit.train import stop
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever these tests were started under
with stop.Stop() as stopping:
  print("ready", flush=True)
  while not stopping.asked(1):
    time.sleep(0.01)
  time.sleep(0.2)
  print("saving", flush=True)
  print("saving", file=sys.stderr, flush=True)
  pathlib.Path({str(tmp_path / "saved")!r}).touch()
"""
  terminal, ours = os.openpty()
  environment = os.environ | {"JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", code]
  with subprocess.Popen(command, stdout=ours, stderr=ours, env=environment) as run:
    try:
      os.close(ours)
      said = b""
      while b"ready" not in said:
        said += os.read(terminal, 100)
      os.close(terminal)
      for _ in range(2):  # by the system, and by the shell
        run.send_signal(signal.SIGHUP)
      assert run.wait(60) == 0
    finally:
      run.kill()
  assert (tmp_path / "saved").exists()
