"""A profile: a range is checked before anything runs, and the trace holds its steps."""

import gzip
import json
import pathlib

import jax
import pytest

from tests.train import line
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import loop, profile


@pytest.fixture
def traces():
  """Where the tests of plans have loaded libtpu, a process that begins a trace dies.

  Seen with jax 0.10.2 and libtpu 0.0.52.
  """
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and "libtpu.so" in maps.read_text():
    pytest.skip("libtpu is loaded in this process")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("10", r"--profile=10: is not a range of steps\. .* --profile=10:15"),
    ("a:b", "is not a range"),
    ("-1:3", "is not a range"),
    ("0:3", "steps count from 1"),
    ("15:10", "the last must not be before the first"),
    ("10:200001", r"the run ends at step 200000 \(config\.train\.steps\)"),
    ("1:500", "500 steps are too many for one trace; the limit is 100"),
  ],
)
def test_a_range_that_cannot_be_traced_is_refused(text, message):
  with pytest.raises(ValueError, match=message):
    profile.parse(text, 200_000)


def test_a_range_is_read():
  assert profile.parse("10:15", 15) == profile.Steps(10, 15)
  assert profile.parse("3:3", 15) == profile.Steps(3, 3)
  assert profile.parse("", 15) is None


@pytest.mark.usefixtures("traces")
def test_the_trace_holds_the_steps_that_were_asked_for_and_no_others(tmp_path, capsys):
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  config = line.config(steps=6, evaluate_every=0)
  traced = profile.Steps(3, 4)
  assert loop.train(line.objective(), config, mesh, tmp_path, traced)
  assert f"the profile is in {tmp_path / 'profile'}" in capsys.readouterr().out
  folder = tmp_path / "profile" / "plugins" / "profile" / "steps_3_4"
  assert list(folder.glob("*.xplane.pb"))  # for xprof
  with gzip.open(folder / "perfetto_trace.json.gz", "rt", encoding="utf-8") as file:
    events = json.load(file)["traceEvents"]
  steps = {
    int(event["args"]["step_num"])
    for event in events
    if event.get("name") == "train" and "step_num" in event.get("args", {})
  }
  assert steps == {3, 4}


@pytest.mark.usefixtures("traces")
@pytest.mark.parametrize(
  ("asked", "said", "left"),
  [
    ((1, 2), "--profile=1:2: nothing is traced", []),
    ((1, 5), "--profile=1:5: only 4:5 is traced", ["steps_4_5"]),
  ],
)
def test_the_same_command_goes_on_beyond_its_steps(asked, said, left, tmp_path, capsys):
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  assert loop.train(line.objective(), line.config(steps=3), mesh, tmp_path)
  traced = profile.Steps(*asked)
  assert loop.train(line.objective(), line.config(steps=6), mesh, tmp_path, traced)
  assert f"{said}, as the run continues from step 3" in capsys.readouterr().out
  folders = (tmp_path / "profile").glob("plugins/profile/*")
  assert [folder.name for folder in folders] == left
