"""A run starts from another's averaged weights, and from nothing that does not fit."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit.data import reader, schema
from video_dit.evaluate import loss
from video_dit.generator import generator as generator_lib
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import loop, objectives
from video_dit.train.heldout import HeldOut
from video_dit.trainer.step import Trainer


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make(jax.devices()[:2], (1, 2, 1, 1))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


def _config(earlier, initial=None, **sections) -> config_lib.Config:
  """A run on the same data in longer rows; `sections` hold changes by section."""
  config = config_lib.parse(json.loads((earlier / "config.json").read_text()))
  train = {"initial": str(earlier if initial is None else initial), "steps": 1}
  train |= {"sample_every": 0, "checkpoint_every": 1}
  changes = {"data": {"row_length": 128}, "train": train}
  for name, values in (changes | sections).items():
    section = dataclasses.replace(getattr(config, name), **values)
    config = dataclasses.replace(config, **{name: section})
  return config


def test_a_run_begins_with_the_held_out_loss_of_the_other(earlier, mesh, tmp_path):
  config = _config(earlier, f"{earlier}:{tiny.STEP}")
  trainer = Trainer(objectives.from_config(config, mesh), config, mesh)
  state = trainer.init()
  assert int(state.step) == 0
  there = generator_lib.Generator.from_workdir(earlier, config, mesh)
  for weights in (state.params, state.ema):
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((weights, there.params)))
  found = HeldOut(trainer, 1)(state.ema)
  dataset = reader.Dataset(reader.set_folders(config.data.path, "latents"), "validation")
  expected = loss.by_level(there, dataset)
  for level in config.evaluate.times:
    np.testing.assert_allclose(found[f"heldout/loss/{level:g}"], expected[level], 1e-5)
  # A run that has saved goes on without the other.
  gone = shutil.copytree(earlier, tmp_path / "gone")
  config = _config(earlier, gone)
  objective = objectives.from_config(config, mesh)
  assert loop.train(objective, config, mesh, tmp_path / "run")
  shutil.rmtree(gone)
  objectives.from_config(config, mesh, begun=True)
  with pytest.raises(ValueError, match="is not the workdir of a run that has saved"):
    objectives.from_config(config, mesh)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"dit": {"patch": (1, 4, 4)}}, r"dit.patch: \(1, 2, 2\) there, \(1, 4, 4\) here"),
    ({"dit": {"width": 32}}, r"dit.width: 64 there, 32 here"),
    ({"diffusion": {"prediction": "noise"}}, r"prediction: 'velocity' there, 'noise'"),
  ],
)
def test_another_model_is_refused_by_name(earlier, mesh, changes, said):
  with pytest.raises(ValueError, match=rf"config\.train\.initial=.*{said}"):
    objectives.from_config(_config(earlier, **changes), mesh)


def test_other_latents_are_refused_and_other_captions_reported(
  earlier, mesh, tmp_path, capsys
):
  data = shutil.copytree(earlier.parent / "data", tmp_path / "data")
  provenance = data / "latents" / schema.PROVENANCE
  said = json.loads(provenance.read_text())
  provenance.write_text(json.dumps(said | {"text": "another"}))
  moved = {"data": {"path": str(data)}, "dit": {"rope_side": 8.0}}
  objectives.from_config(_config(earlier, **moved), mesh)
  told = capsys.readouterr().out
  assert "dit.rope_side was 4.0" in told and "this data set is of another" in told
  provenance.write_text(json.dumps(said | {"text_width": 32}))
  with pytest.raises(ValueError, match=r"text/kernel: \(16, 64\) stored, \(32, 64\) in"):
    objectives.from_config(_config(earlier, **moved), mesh)


def test_a_checkpoint_that_is_not_there_is_refused(earlier, mesh):
  with pytest.raises(ValueError, match=r"no checkpoint of step 7; there are \[3\]"):
    objectives.from_config(_config(earlier, f"{earlier}:7"), mesh)
