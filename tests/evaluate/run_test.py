"""The evaluate command on a run and its samples."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.data import reader
from video_dit.evaluate import look, loss, measure, run, training
from video_dit.evaluate import samples as samples_lib
from video_dit.generator import generator as generator_lib
from video_dit.generator import records
from video_dit.generator import request as request_lib
from video_dit.media import write
from video_dit.media.shapes import demo, rendering
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import heldout, objectives
from video_dit.trainer import step

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


@pytest.fixture(scope="module")
def generator(workdir):
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  return generator_lib.Generator.from_workdir(workdir, config, tiny.mesh())


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
  """Rendered truth where generated clips would lie, the first with a wrong prompt."""
  folder = tmp_path_factory.mktemp("samples")
  lines = []
  for i, (prompt, scene) in enumerate(demo.held_out_prompts(4)):
    name, truth = f"{i}.mp4", demo.truth(scene)
    write.write_video(folder / name, rendering.render(scene), 8.0)
    if i == 0:
      truth["direction"] = {"up": "down"}.get(truth["direction"], "up")
    made = {"sampler": "euler", "steps": 2, "checkpoint": tiny.STEP}
    lines.append(tiny.sample(file=name, prompt=prompt, truth=truth, **made))
  records.write(folder, lines)
  return folder


def sources(workdir, samples, **changes) -> run.Sources:
  clips = [workdir.parent / "data" / "clips.parquet"]
  values = {"samples": samples, "prompts": None, "clips": clips, "nearest": 100}
  return run.Sources(**(values | changes))


def test_everything_is_measured_shown_and_named(workdir, generator, samples, tmp_path):
  asked = sources(workdir, samples)
  judged = run.judge(asked, generator.config)
  paths = run.evaluate(generator, judged, asked, tmp_path / "out")
  assert [p.name for p in paths] == [
    "report.html",
    "evaluation.json",
    "contact_sheet.png",
  ]
  numbers = json.loads(paths[1].read_text())
  assert numbers["direction"] == 0.75
  assert numbers["colour"] == numbers["shape"] == numbers["wholeness"] == 1
  assert numbers["n"] == 4 and numbers["checkpoint"] == tiny.STEP
  assert set(numbers["heldout_loss"]) == {"0.25", "0.75"}
  assert all(np.isfinite(list(numbers["heldout_loss"].values())))
  assert numbers["nearest"]["compared"] == numbers["nearest"]["training_clips"] == 4
  assert numbers["nearest"]["smallest"] > 5
  page = paths[0].read_text()
  for text in (
    "an image",
    "a size that no",
    "a length that no",
    "PSNR",
    "distance",
    "random weights",
  ):
    assert text in page, text
  with Image.open(paths[2]) as sheet:
    assert sheet.size[1] > 4 * 72


def test_the_held_out_loss_is_training_s_over_all_batches(workdir, generator):
  dataset = reader.Dataset(
    reader.set_folders(generator.config.data.path, "latents"), "validation"
  )
  mesh = mesh_lib.make(jax.devices()[:1], (1, 1, 1, 1))

  def with_rows(row_length: int) -> config_lib.Config:
    """One row a batch."""
    data = {"rows": 1, "row_length": row_length, "balance_rows": 1}
    config = generator.config
    return dataclasses.replace(
      config,
      data=dataclasses.replace(config.data, **data),
      sample=dataclasses.replace(config.sample, rows=1, row_length=96),
    )

  found = []
  for row_length in (48, 96):  # two batches of a clip each; one of both
    config = with_rows(row_length)
    here = generator_lib.Generator.from_workdir(workdir, config, mesh)
    found.append(loss.by_level(here, dataset))
  objective = objectives.diffusion_objective(with_rows(48), mesh)
  wanted = heldout.HeldOut(step.Trainer(objective, config, mesh), 2)(here.params)
  for level in (0.25, 0.75):
    expected = pytest.approx(wanted[f"heldout/loss/{level:g}"], rel=1e-5)
    assert found[0][level] == expected and found[1][level] == expected
  assert found[0][0.25] != found[0][0.75]


def test_a_copy_of_a_training_clip_is_at_distance_zero(workdir, generator, samples):
  clips = training.Clips(sources(workdir, samples).clips, "train")
  (chosen,) = clips.take([1])
  media = generator.config.media
  copy = tiny.sample(file=chosen.path, prompt="copy")
  judged = [
    measure.judge(*pair) for pair in samples_lib.frames(pathlib.Path(), [copy], media)
  ]
  found = look.find_nearest(judged, clips, media, most=100)
  assert found.distances.tolist() == [0.0]
  assert chosen.caption in found.pairs[0].caption


def test_media_that_moved_are_found_and_media_that_are_gone_end_nothing(
  workdir, generator, samples, tmp_path
):
  asked = sources(workdir, samples)
  judged = run.judge(asked, generator.config)
  media = workdir.parent / "media"
  moved, there = (training.Clips(asked.clips, "train", at) for at in (media, None))
  assert moved.take(range(len(moved))) == there.take(range(len(there)))
  gone = training.Clips(asked.clips, "train", tmp_path)
  assert look.find_nearest(judged, gone, generator.config.media, most=9) is None
  assert look.reconstruct(generator.frozen, gone, generator.config.media) == []


def test_untrained_weights_do_no_better_than_a_guess(generator):
  prompts = demo.held_out_prompts(16)
  requests = [
    request_lib.Request(
      prompt=prompt, height=32, width=32, frames=9, frames_per_second=8.0, seed=i
    )
    for i, (prompt, _) in enumerate(prompts)
  ]
  truths = {r.prompt: demo.truth(s) for r, (_, s) in zip(requests, prompts, strict=True)}
  judged = []
  for request, frames_FHWC in generator.generate(requests):
    sample = tiny.sample(prompt=request.prompt, truth=truths[request.prompt])
    judged.append(measure.judge(sample, frames_FHWC))
  shares = measure.count(judged)
  for name in ("colour", "direction", "shape"):
    assert shares[name].n == 16
    assert shares[name].interval[0] <= shares[name].chance
  assert shares["wholeness"].fraction <= 0.25


def test_mistakes_are_named(workdir, generator, samples, tmp_path):
  config = generator.config
  with pytest.raises(ValueError, match=r"samples.jsonl: there is no such file"):
    run.judge(sources(workdir, tmp_path), config)
  for torn in ('{"file": "0.mp4", "pro', '{"file": "0.mp4"}', "[]"):
    (tmp_path / "samples.jsonl").write_text(torn)
    with pytest.raises(ValueError, match=r"samples.jsonl:1: is not a sample record"):
      run.judge(sources(workdir, tmp_path), config)
  other = tmp_path / "other.jsonl"
  other.write_text(json.dumps({"prompt": "never sampled", "colour": "red"}) + "\n")
  with pytest.raises(ValueError, match="no sample has a prompt of this file"):
    run.judge(sources(workdir, samples, prompts=other), config)
  for name, content, message in (
    ("b.jsonl", '\n{"colour": "red"}', r"b.jsonl:2: has no 'prompt'"),
    ("t.txt", "a red circle\n", r"t.txt: no line says what its clip must show"),
  ):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
      run.judge(sources(workdir, samples, prompts=tmp_path / name), config)
  with pytest.raises(ValueError, match=r"none.jsonl: there is no such file"):
    run.judge(sources(workdir, samples, prompts=tmp_path / "none.jsonl"), config)
  unnamed = sources(workdir, None, clips=[tmp_path / "nowhere"])
  assert run.judge(unnamed, config) == [] and run._clips(unnamed) is None
  other.with_suffix(".parquet").write_bytes(b"no table")
  for name, message in (
    ("nowhere", "no such file"),
    ("other.parquet", "not a Parquet file"),
  ):
    with pytest.raises(ValueError, match=rf"--training=.*{name}: .*{message}.*Name the"):
      run.judge(sources(workdir, None, clips=[tmp_path / name], named=True), config)
  with pytest.raises(ValueError, match="--prompts needs samples"):
    run.judge(sources(workdir, None, prompts=other), config)


def test_the_command_without_samples(workdir, tmp_path):
  command = [sys.executable, "-m", "video_dit.evaluate", "--mesh=cpu:8"]
  done = subprocess.run(
    [*command, f"--workdir={workdir}", f"--step={tiny.STEP}", f"--output={tmp_path}"],
    cwd=ROOT,
    env=os.environ | tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "report.html" in done.stdout and "evaluation.json" in done.stdout
  assert "heldout_loss_mean" in (tmp_path / "evaluation.json").read_text()
