"""The sample command on a run: files, records, gallery."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import av
import jax
import numpy as np
from PIL import Image
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit import lock
from video_dit.generator import generator as generator_lib
from video_dit.sample import prompts, run

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


def load(workdir, **sample) -> generator_lib.Generator:
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  config = dataclasses.replace(
    config, sample=dataclasses.replace(config.sample, **sample)
  )
  return generator_lib.Generator.from_workdir(workdir, config, tiny.mesh())


def command(*flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "video_dit.sample", *flags],
    cwd=ROOT,
    env=os.environ | tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )


def test_files_records_and_gallery(workdir, tmp_path):
  listed = tmp_path / "prompts.jsonl"
  lines = [
    {"prompt": "a red circle", "frames": 5, "seed": 9, "colour": "red"},
    {"prompt": "a <b>still</b>", "frames": 1, "negative": "a <i>circle"},
  ]
  listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
  folder = tmp_path / "out"
  samples = run.sample(load(workdir), prompts.lines([""], [str(listed)]), folder)
  assert [s.file for s in samples] == [
    "0000_clip_seed0.mp4",
    "0001_a-red-circle_seed9.mp4",
    "0002_a-b-still-b_seed2.png",
  ]
  assert samples[1].truth == {"colour": "red"}
  assert samples[0].checkpoint == tiny.STEP and not samples[0].blank
  records = [json.loads(x) for x in (folder / "samples.jsonl").read_text().splitlines()]
  assert [r["prompt"] for r in records] == ["", "a red circle", "a <b>still</b>"]
  with av.open(folder / samples[1].file) as clip:
    assert sum(1 for _ in clip.decode(video=0)) == 5
    assert clip.metadata["prompt"] == "a red circle"
    assert clip.metadata["seed"] == "9"
  with Image.open(folder / samples[2].file) as image:
    assert image.size == (32, 32) and image.text["prompt"] == "a <b>still</b>"
  page = (folder / "index.html").read_text()
  assert "<b>" not in page and samples[1].file in page
  assert "away from" in page and "<i>" not in page
  assert [r["negative"] for r in records] == ["", "", "a <i>circle"]
  assert not list(folder.glob("*.partial"))


def test_what_was_done_before_a_kill_is_recorded(workdir, tmp_path, monkeypatch):
  generator, sampler = load(workdir), generator_lib.sampler_lib.Sampler
  groups = []

  def dies(self, *args):
    groups.append(args)
    if len(groups) == 2:
      raise KeyboardInterrupt
    return call(self, *args)

  call = sampler.__call__
  monkeypatch.setattr(sampler, "__call__", dies)
  most = generator.shape.rows * generator.shape.segments  # in one group
  lines = [{"prompt": f"clip {i}"} for i in range(most + 1)]
  with pytest.raises(KeyboardInterrupt):
    run.sample(generator, lines, tmp_path)
  written = sorted(path.name for path in tmp_path.glob("*.mp4"))
  records = [json.loads(x) for x in (tmp_path / "samples.jsonl").read_text().splitlines()]
  assert [r["file"] for r in records] == written
  assert 0 < len(written) < len(lines)
  assert written[-1] in (tmp_path / "index.html").read_text()


def test_earlier_samples_of_the_folder_stay_recorded(workdir, tmp_path):
  generator = load(workdir)

  def records() -> list[str]:
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    return [json.loads(line)["file"] for line in lines]

  red, blue = ({"prompt": prompt, "frames": 1} for prompt in ("red", "blue"))
  run.sample(generator, [red], tmp_path)
  run.sample(generator, [blue], tmp_path)
  assert records() == ["0000_red_seed0.png", "0000_blue_seed0.png"]
  page = (tmp_path / "index.html").read_text()
  assert all(name in page for name in records())
  # One that is made again replaces its record, and one that was removed has none.
  (tmp_path / "0000_blue_seed0.png").unlink()
  assert [sample.file for sample in run.sample(generator, [red], tmp_path)] == records()
  with lock.held(tmp_path, flag="--output", wait_seconds=0), pytest.raises(lock.Busy):
    run.sample(generator, [blue], tmp_path, wait_seconds=0)


def test_a_clip_that_is_not_finite_is_said_to_be_blank(workdir, tmp_path):
  generator = load(workdir)
  generator.params = jax.tree.map(lambda x: x * np.nan, generator.params)
  (sample,) = run.sample(generator, [{"prompt": "a red circle"}], tmp_path)
  assert sample.blank
  assert json.loads((tmp_path / "samples.jsonl").read_text())["blank"] is True
  assert "blank: the model" in (tmp_path / "index.html").read_text()


def test_what_does_not_fit_is_refused_before_a_file_is_written(workdir, tmp_path):
  lines = [{"prompt": "x"}, {"prompt": "y", "height": 33}]
  with pytest.raises(ValueError, match=r"'y'.*height=33.*Nearest: 32 or 40"):
    run.sample(load(workdir), lines, tmp_path / "out")
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("form", "line", "message"),
  [
    ("png", {}, r"'y'.*format='png' holds one frame, but 9 are.*'mp4' or 'gif', or fram"),
    ("gif", {"frames_per_second": 120}, r"'y'.*'gif' has at most 100 .* 120 are req"),
  ],
)
def test_what_no_file_of_the_format_holds_is_refused(
  workdir, tmp_path, form, line, message
):
  lines = [{"prompt": "x", "frames": 1}, {"prompt": "y", **line}]
  with pytest.raises(ValueError, match=message):
    run.sample(load(workdir, format=form), lines, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_the_command(workdir, tmp_path):
  folder = tmp_path / "out"
  done = command(
    f"--workdir={workdir}",
    "--prompt=a red circle",
    f"--output={folder}",
    "--mesh=cpu:8",
    "--config.sample.format=gif",
  )
  assert done.returncode == 0, done.stderr
  assert (folder / "0000_a-red-circle_seed0.gif").is_file()
  assert "index.html" in done.stdout
  assert "sample" in done.stderr  # the progress bar


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--workdir=RUN"], "No prompt was given"),
    (["--workdir=RUN", "--prompt=x", "--step=7"], "no checkpoint of step 7"),
    (["--workdir=nowhere", "--config.seed=1"], "nowhere/config.json does not exist"),
    (["--workdir=RUN", "--config.sample.stps=3"], "--config.sample.stps: there is no"),
  ],
)
def test_a_mistake_is_one_message(workdir, flags, message):
  done = command(*(flag.replace("RUN", str(workdir)) for flag in flags))
  assert done.returncode == 2
  assert message in done.stderr and "Traceback" not in done.stderr
