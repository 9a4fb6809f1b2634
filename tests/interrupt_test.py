"""Ctrl-C ends a command wherever it falls."""

import pathlib
import signal
import subprocess
import sys

import pytest

_BEGIN = """
import gc, os, signal, time
from video_dit import interrupt
interrupt.install()
signal.signal(signal.SIGINT, signal.default_int_handler)
def stop():
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(1)
"""
_CALLBACK = """
lost = []
def callback(*args):
  if len(lost) < 2:
    lost.append(True)
    stop()
gc.callbacks.append(callback)
gc.collect()
print("ignored", flush=True)
time.sleep(60)
"""
_IMPORT = """
try:
  stop()
except KeyboardInterrupt as error:
  raise ImportError("initialization failed") from error
"""


@pytest.mark.parametrize(
  ("code", "printed"), [("stop()", ""), (_CALLBACK, "ignored\n"), (_IMPORT, "")]
)
def test_ctrl_c_ends_a_command_wherever_it_falls(code, printed):
  done = subprocess.run(
    [sys.executable, "-c", _BEGIN + code],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    timeout=50,
    check=False,
  )
  assert done.stdout == printed
  assert done.stderr == "\nstopped\n"
  assert done.returncode == -signal.SIGINT


def test_other_errors_that_python_ignores_are_shown():
  code = "\nclass Bad:\n  def __del__(self): raise OSError('lost')\nBad()"
  done = subprocess.run(
    [sys.executable, "-c", _BEGIN + code],
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    timeout=50,
    check=False,
  )
  assert "Exception ignored in" in done.stderr and "OSError: lost" in done.stderr
  assert done.returncode == 0
