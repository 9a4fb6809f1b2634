"""The lock of a folder: one run at a time, and none after a kill."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

from absl import logging
import pytest

from video_dit import lock

_HOLD = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[2])
from video_dit import lock
with lock.held(pathlib.Path(sys.argv[1]), flag="--workdir", wait_seconds=0):
  print("held", flush=True)
  time.sleep(600)
"""


def test_a_run_that_is_at_work_is_named_and_one_that_was_killed_is_none(tmp_path):
  root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
  other = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path), root], stdout=subprocess.PIPE, text=True
  )
  assert other.stdout.readline() == "held\n"
  said = []
  with (
    pytest.raises(lock.Busy, match=rf"{tmp_path}: process {other.pid} on .*--workdir"),
    lock.held(tmp_path, flag="--workdir", wait_seconds=0.1, say=said.append),
  ):
    pass
  assert len(said) == 1 and "waiting for it to finish" in said[0]
  other.send_signal(signal.SIGKILL)
  other.communicate()
  with lock.held(tmp_path, flag="--workdir", wait_seconds=0):
    assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_run_that_is_still_ending_is_waited_for(tmp_path):
  first = lock.held(tmp_path, flag="--workdir", wait_seconds=0)
  first.__enter__()
  said = []

  def end(text):
    said.append(text)
    threading.Timer(0.2, first.__exit__, (None, None, None)).start()

  with lock.held(tmp_path / "." / ".", flag="--workdir", wait_seconds=60, say=end):
    assert len(said) == 1


def test_without_locks_it_warns_and_goes_on(tmp_path, monkeypatch):
  def none(number, how):
    raise OSError(errno.ENOLCK, "No locks available")

  warned = []
  monkeypatch.setattr(fcntl, "flock", none)
  monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(values))
  with lock.held(tmp_path / "new", flag="--workdir", wait_seconds=0):
    assert len(warned) == 1 and warned[0][0] == tmp_path / "new"
