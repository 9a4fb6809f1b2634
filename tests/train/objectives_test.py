"""Objectives: what a step weighs; other encoders, data sets and models are told apart."""

import dataclasses
import json

import jax
import pytest

from tests import tiny
from tests.data import clips
from video_dit import config as config_lib
from video_dit.data import reader, schema
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import objectives


def test_a_text_encoder_with_random_weights_is_named(tmp_path, capsys):
  folder = clips.write(tmp_path / "latents", 10)
  encoder = tiny.encoder(tmp_path / "text")
  metadata = dataclasses.replace(
    schema.Metadata.load(folder),
    text=encoder.fingerprint,
    text_path=str(tmp_path / "text"),
  )
  metadata.save(folder)
  data = dataclasses.replace(tiny.CONFIG.data, path=str(tmp_path))
  config = dataclasses.replace(tiny.CONFIG, data=data)
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  objective = objectives.from_config(config, mesh)
  assert "random weights" in objective.facts["text encoder"]
  assert "text encoder: random weights" in capsys.readouterr().out


def test_another_text_encoder_is_refused_by_name(tmp_path):
  clips.write(tmp_path / "latents", 10)
  encoder = tiny.encoder(tmp_path / "text")
  config = config_lib.Config(
    name="other",
    objective="diffusion",
    text=dataclasses.replace(tiny.CONFIG.text, checkpoint=str(tmp_path / "text")),
    data=config_lib.Data(path=str(tmp_path), rows=8, row_length=64),
  )
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  with pytest.raises(ValueError, match=rf"text encoder.*'t5-1'.*{encoder.fingerprint}"):
    objectives.from_config(config, mesh)


def test_sets_of_the_same_extents_and_other_clips_are_told_apart(tmp_path, monkeypatch):
  def mark(name: str) -> str:
    return objectives._fingerprint(reader.Dataset(clips.write(tmp_path / name, 10)))

  first, again = mark("first"), mark("again")
  monkeypatch.setattr(clips, "key", lambda i: f"{i:032x}")
  other = mark("other")
  assert first == again != other
  assert first.partition("-")[0] == other.partition("-")[0]


@pytest.mark.parametrize("keys", ["_DIFFUSION_KEYS", "_RECONSTRUCTION_KEYS"])
def test_what_a_run_may_not_change_are_keys_of_the_config(keys):
  known = {key for key, _ in config_lib.leaves(tiny.CONFIG)}
  assert set(getattr(objectives, keys)) <= known


def test_a_step_of_many_clips_and_of_few_weigh_a_clip_alike(tmp_path_factory):
  workdir = tiny.run_once(tmp_path_factory)
  config = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  for accumulate in (1, 2):
    train = dataclasses.replace(config.train, accumulate=accumulate)
    objective = objectives.diffusion_objective(
      dataclasses.replace(config, train=train), tiny.mesh()
    )
    # Two clips of 48 tokens fill a row of 96.
    assert objective.weight == 2 * config.data.rows * accumulate
