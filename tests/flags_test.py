"""Commands refuse mistakes by one message, before anything is compiled or written."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from video_dit import config, flags

_ROOT = pathlib.Path(__file__).parents[1]
_DEMO = ["--config=configs/demo.py", "--workdir=WORKDIR", "--mesh=cpu:8"]
_AUTOENCODER = ["--config=configs/autoencoder.py:demo", *_DEMO[1:]]
# Arguments of `video_dit.main`, and parts of what it says.
_CASES = {
  "unknown key": (
    [*_DEMO, "--config.train.stepz=3"],
    ["--config.train.stepz: there is no such key", "Did you mean config.train.steps?"],
  ),
  "unknown section": ([*_DEMO, "--config.tain.steps=3"], ["config.tain", "config.train"]),
  "wrong type": ([*_DEMO, "--config.train.steps=many"], ["train.steps", "many"]),
  "out of range": (
    [*_DEMO, "--config.train.keep=0"],
    ["config.train.keep=0", "must be above 0"],
  ),
  "unknown choice": (
    [*_DEMO, "--config.diffusion.process=flw"],
    ["config.diffusion.process='flw'", "must be one of", "Did you mean 'flow'"],
  ),
  "sizes that do not divide": (
    [*_DEMO, "--config.dit.heads=5"],
    ["config.dit.width=", "must be a multiple of dit.heads=5"],
  ),
  "unknown preset": (["--config=configs/demo.py:quik", *_DEMO[1:]], ["'quik'", "quick"]),
  "no such config": (["--config=configs/dmeo.py", *_DEMO[1:]], ["configs/dmeo.py"]),
  "no preset": (["--config=configs/b.py:x", *_DEMO[1:]], ["'x'", "configs/b.py"]),
  "unknown flag": ([*_DEMO, "--wrkdir=x"], ["--wrkdir", "Did you mean --workdir"]),
  "no flag": ([*_DEMO, "quick"], ["'quick' is not a flag"]),
  "no config": (["--workdir=WORKDIR"], ["--config is missing", "--config=configs/"]),
  "axes that do not divide": (
    [*_DEMO[:2], "--mesh=cpu:8,fsdp=3"],
    ["--mesh=cpu:8,fsdp=3", "fsdp=3", "there are 8"],
  ),
  "more devices than there are": (
    [*_DEMO[:2], "--mesh=cpu:4,data=8"],
    ["--mesh=cpu:4,data=8", "asks for 8 devices", "there are 4"],
  ),
  "unknown axis": (
    [*_DEMO[:2], "--mesh=cpu:8,tensr=2"],
    ["'tensr' is not an axis", "Did you mean tensor"],
  ),
  "unknown platform": ([*_DEMO[:2], "--mesh=cpus:8"], ["'cpus' is not a platform"]),
  "rows that do not divide": (
    [*_AUTOENCODER, "--config.data.rows=12", "--config.data.path=nowhere"],
    ["config.data.rows=12", "data x fsdp = 8", "multiple of 8"],
  ),
  "a file for a folder": (
    [_DEMO[0], "--workdir=setup.cfg/x"],
    ["--workdir=setup.cfg/x: setup.cfg is a file. Name a folder."],
  ),
  "missing data set": (
    [*_AUTOENCODER, "--config.data.path=nowhere"],
    ["nowhere/pixels", "video_dit.preprocess"],
  ),
}

# What a command needs of its config beside the config file.
_NEEDED = {
  ("main", "diffusion"): "--config.data.path=",
  ("main", "reconstruction"): "--config.data.path=",
  ("preprocess", "diffusion"): "--config.autoencoder.checkpoint=",
}

# Runs the command on each line of arguments, in a fork: imports are paid for once.
_DRIVER = """
import json, os, sys
from video_dit import flags, main
for arguments in json.load(sys.stdin):
  reading, writing = os.pipe()
  child = os.fork()
  if not child:
    os.dup2(writing, 1), os.dup2(writing, 2), os.close(writing)
    sys.argv = ["main", *arguments]
    flags.run(main.main, main.__doc__)
    sys.exit(0)
  os.close(writing)
  with os.fdopen(reading, errors="replace") as pipe:
    said = pipe.read()
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  print(json.dumps([status, said]), flush=True)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("flags") / "run"


@pytest.fixture(scope="module")
def answers(workdir) -> dict[str, tuple[int, str]]:
  """Exit status and output of every case."""
  lines = [
    [word.replace("WORKDIR", str(workdir)) for word in arguments]
    for arguments, _ in _CASES.values()
  ]
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", _DRIVER],
    input=json.dumps(lines),
    cwd=_ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  found = [json.loads(line) for line in done.stdout.splitlines()]
  assert len(found) == len(lines), done.stderr
  return dict(zip(_CASES, found, strict=True))


@pytest.mark.parametrize("case", _CASES)
def test_a_mistake_is_one_message_that_names_it(case, answers, workdir):
  status, said = answers[case]
  assert status == 2, said
  assert said.startswith("error: ") and "Traceback" not in said
  for part in _CASES[case][1]:
    assert part in said
  assert not workdir.exists()


def _run(code: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-W", "ignore", "-c", code],
    cwd=_ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize(
  "raised",
  [
    "open('/dev/full', 'w').write('x' * 10**6)",
    "_because(ValueError('No space left on device: x'), OSError(28, 'full'))",
    "_because(ValueError('x: it failed'), RuntimeError('No space left on device'))",
  ],
)
def test_a_full_disk_is_one_message_with_the_remedy_and_a_status_of_its_own(raised):
  code = f"""
from video_dit import flags
flags.define_mesh()
def _because(error, cause):
  raise error from cause
flags.run(lambda: {raised}, "", again="it starts anew")
"""
  done = _run(code)
  assert done.returncode == 74
  assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
  if "open" in raised:
    assert "No space left on device" in done.stderr
    assert "Make room, and run the same command again: it starts anew." in done.stderr


@pytest.mark.parametrize(
  ("raised", "said", "status"),
  [
    ("config.parse({'nmae': 'x'})", "error: config.nmae", 2),
    ("np.random.default_rng(-1)", "This comes from numpy", 1),
    ("json.loads('{')", "This comes from json", 1),
  ],
)
def test_what_a_library_raises_is_not_the_users_mistake(raised, said, status):
  """A launcher gives up at status 2, and starts again at 1."""
  code = f"""
import numpy as np
import json
from video_dit import config, flags
flags.define_mesh()
flags.run(lambda: {raised}, "")
"""
  done = _run(code)
  assert said in done.stderr
  assert done.returncode == status
  assert ("Traceback" in done.stderr) == (status == 1)


def test_a_command_runs_without_a_home_directory(tmp_path):
  code = """
import os, pwd
def nobody(number):
  raise KeyError(number)
pwd.getpwuid = nobody
os.environ.pop("HOME", None)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ["XDG_CACHE_HOME"] = FOLDER
import jax
from video_dit import flags
flags.define_mesh()
flags.run(lambda: print("ran", jax.config.jax_compilation_cache_dir), "")
"""
  done = _run(code.replace("FOLDER", "''"))
  assert done.returncode == 0, done.stderr
  assert done.stdout == "ran None\n" and "no home directory" in done.stderr
  done = _run(code.replace("FOLDER", repr(str(tmp_path))))
  assert done.stdout == f"ran {tmp_path}/video_dit/jax\n", done.stderr


def test_of_a_flag_that_is_given_twice_the_last_counts():
  words = ["sample", "--workdir=a", "-workdir", "b", "--workdir=c", "--prompt=d"]
  assert flags._peek(words, "workdir") == "c"
  assert flags._peek(words[:4], "workdir") == "b"
  assert flags._peek(words, "config") is None


def test_another_run_in_the_folder_is_no_mistake_and_may_be_over_soon(tmp_path):
  code = """
import pathlib
from video_dit import flags, lock
flags.define_mesh()
def main():
  first, second = (
    lock.held(pathlib.Path(FOLDER), flag="--workdir", wait_seconds=0) for _ in range(2)
  )
  with first, second:
    pass
flags.run(main, "")
""".replace("FOLDER", repr(str(tmp_path)))
  done = _run(code)
  assert done.returncode == 75, done.stderr
  assert "error: " in done.stderr and f"remove {tmp_path}/lock" in done.stderr


def test_ctrl_c_is_one_line_and_says_what_the_same_command_does():
  code = """
from video_dit import flags, interrupt
interrupt.install()
flags.define_mesh()
def main():
  raise KeyboardInterrupt
flags.run(main, "", interrupted="run the same command to continue")
"""
  done = _run(code)
  assert done.stderr == "\nstopped: run the same command to continue\n"
  assert done.returncode == -signal.SIGINT


def test_ctrl_c_while_a_command_imports_is_one_line(tmp_path):
  # In place of what the command imports first beside Python's own.
  (tmp_path / "absl.py").write_text("raise KeyboardInterrupt\n")
  done = subprocess.run(
    [sys.executable, "-m", "video_dit.sample"],
    env=os.environ | {"PYTHONPATH": f"{tmp_path}:{_ROOT}"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stderr == "\nstopped\n"
  assert done.returncode == -signal.SIGINT


def test_a_full_disk_is_not_logged_by_the_threads_that_meet_it():
  code = """
from absl import logging
from video_dit import flags
flags.define_mesh()
def main():
  for error in (OSError(28, "No space left on device"), ValueError("bad")):
    try:
      raise error
    except Exception:
      logging.exception("a thread failed")
flags.run(main, "")
"""
  said = _run(code).stderr
  assert said.count("a thread failed") == 1 and "ValueError: bad" in said


# Those that take a config and a mesh, and the one that takes neither.
_COMMANDS = ("main", "preprocess", "sample", "evaluate", "plan", "convert")


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_is_told_before_anything_is_imported(command, tmp_path):
  (tmp_path / "absl.py").write_text("raise ImportError\n")
  done = subprocess.run(
    [sys.executable, "-OO", "-m", f"video_dit.{command}", "--help"],
    env=os.environ | {"PYTHONPATH": f"{tmp_path}:{_ROOT}"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  told = ["Flags:", "--debug", "Exit status"]
  if command != "convert":
    told += ["--config", "--mesh"]
  if command in ("main", "preprocess", "sample", "evaluate"):
    told.append("--distributed")
  for part in told:
    assert part in done.stdout


def test_a_home_is_found_in_paths():
  code = """
import os
from video_dit import flags
flags.define_workdir()
flags.define_mesh()
def main():
  assert flags.folder("workdir") == os.path.expanduser("~/runs")
import sys
sys.argv = ["main", "--workdir=~/runs"]
flags.run(main, "")
"""
  done = _run(code)
  assert done.returncode == 0, done.stderr


def test_a_folder_that_was_removed_under_a_command_is_said(tmp_path):
  code = f"""
import os
os.chdir({str(tmp_path)!r})
os.rmdir(os.getcwd())
from video_dit import flags
flags.define_mesh()
flags.run(print, "")
"""
  done = _run(code)
  assert done.returncode == 2
  assert done.stderr == "error: the current folder was removed. Change to another.\n"


# A place that not even root can write to.
_NOWHERE = "/sys/kernel"


@pytest.mark.parametrize(
  ("command", "arguments"),
  [
    ("plan", ["--config=configs/demo.py", "--topology=cpu:8", f"--json={_NOWHERE}/x"]),
    ("convert", ["--from=.", f"--to={_NOWHERE}/x"]),
    ("evaluate", ["--workdir=.", "--config=configs/demo.py", f"--output={_NOWHERE}/x"]),
    ("sample", ["--workdir=.", "--config=configs/demo.py", f"--output={_NOWHERE}/x"]),
    ("preprocess", ["--input=.", "--config=configs/demo.py", f"--output={_NOWHERE}/x"]),
  ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(command, arguments):
  code = f"""
import sys
from video_dit import flags
from video_dit.{command}.__main__ import main
sys.argv = [{command!r}, *{arguments!r}]
flags.run(main, "")
"""
  done = _run(code)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("error: ") and f"'{_NOWHERE}'" in done.stderr


@pytest.mark.parametrize("command", ["main", "preprocess.__main__"])
def test_examples_of_help_name_all_that_they_need(command):
  text = (_ROOT / "video_dit" / f"{command.replace('.', '/')}.py").read_text()
  name = command.partition(".")[0]
  _, *examples = text.replace("\\\n", " ").split("\n\n")[1].split("  python -m ")
  for example in examples:
    found = re.search(r"--config=(\S+)", example)
    needed = _NEEDED.get((name, config.load(found[1]).objective), "")
    assert needed in example
