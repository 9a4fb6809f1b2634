"""The commands over two processes, what they save, and a start that compiles nothing."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny
from video_dit.media import decode
from video_dit.train import metrics

_ROOT = pathlib.Path(__file__).parents[2]
_SETTINGS = {
  "data.row_segments": 12,
  "data.balance_rows": 1,
  "train.log_every": 1,
  "train.evaluate_every": 2,
  "train.evaluate_batches": 1,
  "train.sample_prompts": "('a red circle',)",
  "train.sample_every": 0,
}


def _start(*arguments: str, **environment: str) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, *arguments],
    cwd=_ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


# Training keeps its programs in the workdir, where it is to find them.
_TRAINING = {"JAX_PLATFORMS": "cpu"}


def _environment(*arguments: str) -> dict[str, str]:
  return _TRAINING if "video_dit.main" in arguments else tiny.environment()


def _two(*arguments: str) -> list[str]:
  """What the two processes of a run say."""
  together = {"JAX_COORDINATOR_ADDRESS": _address(), "JAX_NUM_PROCESSES": "2"}
  # As a user starts them: the tests' own threads are more, to read programs from disk.
  together |= _environment(*arguments) | {"PJRT_NPROC": ""}
  pair = [_start(*arguments, JAX_PROCESS_ID=str(i), **together) for i in range(2)]
  try:
    return [_end(process) for process in pair]
  finally:
    for process in pair:
      process.kill()
      process.communicate()


def _one(*arguments: str) -> str:
  return _end(_start(*arguments, **_environment(*arguments)))


def _address() -> str:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


def _training(run: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  """A command that trains on the data set of a run, with its config."""
  flags = [
    "-m",
    "video_dit.main",
    f"--config=video_dit/saved_config.py:{run}",
    f"--workdir={workdir}",
  ]
  flags += [f"--config.{key}={value}" for key, value in _SETTINGS.items()]
  return [*flags, "--config.train.steps=2"]


def _end(process: subprocess.Popen) -> str:
  said, _ = process.communicate(timeout=600)
  assert process.returncode == 0, said
  return said


def _losses(workdir: pathlib.Path, name: str = "loss") -> list[float]:
  lines = metrics.read(workdir / "metrics.jsonl")
  return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
  """The workdir of a run, whose data set and encoders are there."""
  return tiny.run_once(tmp_path_factory)


_TELL = """
import jax
from video_dit.parallel import hosts
hosts.join(None)
first = jax.process_index() == 0
print([hosts.tell(word if first else "nothing", 60) for word in ("busy", "")])

def refuse():
  assert first
  raise ValueError("another encoder")

try:
  hosts.check(refuse, 60)
except ValueError as error:
  print("refused:", error)
"""


def test_what_the_first_process_says_all_hear():
  said = _two("-c", _TELL)
  assert ["['busy', '']" in one for one in said] == [True, True]
  assert ["refused: another encoder" in one for one in said] == [True, True]


def _frames(workdir: pathlib.Path) -> np.ndarray:
  """Of the clip that training sampled at its second step."""
  path = workdir / "samples" / "00000002" / "000.mp4"
  return np.stack(list(decode.frames(path, tiny.CONFIG.media))).astype(np.float32)


_BATCHES = """
import json
import sys
import jax
import numpy as np
from video_dit import config as config_lib
from video_dit.data import loader, reader
from video_dit.parallel import hosts, mesh, partition
from video_dit.trainer import task

hosts.join(None)
config = config_lib.parse(json.load(open(sys.argv[1] + "/config.json")))
dataset = reader.Dataset(config.data.path + "/latents")
mesh.start("cpu:2", config.mesh)
devices = np.array(jax.devices())
assert [d.process_index for d in devices] == [0, 0, 1, 1]
whole = next(loader.loader(dataset, config))
for order, shape in (
  ((0, 1, 2, 3), (1, 4, 1, 1)),
  ((0, 2, 1, 3), (2, 2, 1, 1)),
  ((0, 1, 2, 3), (1, 1, 1, 4)),
  ((0, 1, 2, 3), (1, 1, 4, 1)),
  ((0, 2, 1, 3), (1, 2, 1, 2)),
  ((0, 2, 3, 1), (2, 1, 2, 1)),
  ((0, 1, 2, 3), (1, 1, 2, 2)),
):
  over = jax.sharding.Mesh(devices[list(order)].reshape(shape), mesh.AXES)
  share = loader.Share.of(partition.rows_sharding(over), config.data.rows)
  batches = loader.loader(dataset, config, share=share)
  batch = next(loader.prefetch_to_device(batches, task.rows_layout(over), 1, share))
  jax.tree.map(np.testing.assert_array_equal, hosts.fetch(batch), whole)
  for found, wanted in zip(jax.tree.leaves(batch), jax.tree.leaves(whole), strict=True):
    for part in found.addressable_shards:  # also where several hold the same
      np.testing.assert_array_equal(np.asarray(part.data), wanted[part.index])
  print(shape, len(share.rows))
"""


def test_a_batch_is_the_same_however_it_lies_over_two_processes(run):
  """Also where rows are spread over both, or lie in another order than processes do."""
  said = _two("-c", _BATCHES, str(run))
  rows = [int(line.split()[-1]) for line in said[0].splitlines() if line[0] == "("]
  assert rows == [4, 4, 8, 8, 8, 8, 8]


def test_two_processes_train_sample_and_save_as_one_does(run, tmp_path):
  """A row lies over both."""
  one, two = tmp_path / "one", tmp_path / "two"
  said = _two(*_training(run, two), "--mesh=cpu:2,context=4")
  assert "tensor=1, context=4" in said[0]
  assert "step 2/2" in said[0] and "step 2/2" not in said[1]

  # The other one does not stop in between.
  further = ["--mesh=cpu:4,context=4", "--config.train.steps=3"]
  said = [_one(*_training(run, one), *further, "--config.train.sample_every=2")]
  assert "s, including compilation" in said[0]
  losses = _losses(one)
  assert len(losses) == 3
  assert _losses(two) == pytest.approx(losses[:2], rel=1e-5)
  (measured,) = _losses(two, "heldout/loss")
  assert measured == pytest.approx(_losses(one, "heldout/loss")[0], rel=1e-5)
  assert np.abs(_frames(two) - _frames(one)).mean() < 0.1  # of 255

  # What two processes saved, one goes on with.
  shutil.copytree(one / "compiled", two / "compiled", dirs_exist_ok=True)
  said = [_one(*_training(run, two), *further, "--config.train.sample_prompts=()")]
  assert "continuing from step 2" in said[0]
  assert "s, from the compilation cache" in said[0]
  assert _losses(two) == pytest.approx(losses, rel=1e-5)


def test_two_processes_sample_and_evaluate_as_one_does(run, tmp_path):
  one, two = tmp_path / "one", tmp_path / "two"
  asked = [
    "-m",
    "video_dit.sample",
    f"--workdir={run}",
    "--prompt=a red circle",
    "--prompt=a blue bar",
  ]
  asked += ["--config.sample.format=gif"]
  said = _two(*asked, f"--output={two}", "--mesh=cpu:2,fsdp=2")
  assert "2 clips" in said[0] and "clip" not in said[1]
  assert "2 clips" in _one(*asked, f"--output={one}", "--mesh=cpu:4,fsdp=2")
  names = sorted(path.name for path in one.iterdir())
  assert {"lock", "samples.jsonl", "index.html"} < set(names) and len(names) == 5
  assert names == sorted(path.name for path in two.iterdir())
  clips = [name for name in names if name.endswith(".gif")]
  assert len(clips) == 2
  for name in clips:
    assert (two / name).read_bytes() == (one / name).read_bytes()

  judged = ["-m", "video_dit.evaluate", f"--workdir={run}", f"--samples={one}"]
  judged += ["--config.evaluate.adherence=false"]
  said = _two(*judged, f"--output={two}", "--mesh=cpu:2,fsdp=2")
  assert "report.html" in said[0] and "report.html" not in said[1]
  _one(*judged, f"--output={one}", "--mesh=cpu:4,fsdp=2")
  found, wanted = (json.loads((x / "evaluation.json").read_text()) for x in (two, one))
  assert found["heldout_loss"] == pytest.approx(wanted["heldout_loss"], rel=1e-5)
  assert len(wanted["heldout_loss"]) == 2
  assert found["nearest"] == wanted["nearest"]
