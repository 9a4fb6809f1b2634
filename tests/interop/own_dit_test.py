"""This project's own transformer as safetensors: out of a run, and back in."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests import tiny
from video_dit import config as config_lib
from video_dit import interop
from video_dit.checkpoints.store import Store
from video_dit.convert import run as convert
from video_dit.generator import generator as generator_lib
from video_dit.generator import request as request_lib
from video_dit.interop import own_dit
from video_dit.train import objectives
from video_dit.trainer.step import Trainer


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return tiny.run_once(tmp_path_factory)


@pytest.fixture(scope="module")
def written(workdir, tmp_path_factory):
  folder = tmp_path_factory.mktemp("own") / "transformer"
  told = list(convert.convert(workdir, folder))
  assert "  kind        adaln_dit, names of native" in told
  return folder


def ema(workdir, like):
  with Store(workdir / "checkpoints") as store:
    return jax.device_get(store.restore_ema(jax.tree.map(np.asarray, like)))


def named(written, **changes) -> config_lib.Config:
  """A config that names the transformer, of other sizes until it is asked."""
  plain = config_lib.DiT(checkpoint=str(written), remat="none")
  return dataclasses.replace(tiny.CONFIG, dit=plain, **changes)


def test_a_run_is_written_and_read_back(workdir, written, tmp_path):
  loaded = interop.load(written)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, ema(workdir, loaded.params))
  names = interop.open_tensors(written).names
  assert "blocks.1.qkv.kernel" in names and "embed.bias" in names
  assert loaded.tensors == len(names) and loaded.config.channels == 4
  interop.save(loaded, tmp_path / "again")
  again = interop.load(tmp_path / "again")
  assert again.config == loaded.config
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


def test_a_run_starts_from_it_with_its_function(workdir, written, tmp_path):
  data = dataclasses.replace(
    tiny.CONFIG.data, path=str(workdir.parent / "data"), caption_dropout=0.0
  )
  config = interop.with_transformer(named(written, data=data))
  assert config.dit == dataclasses.replace(
    tiny.CONFIG.dit, checkpoint=str(written), remat="none"
  )
  mesh = tiny.mesh()
  state = Trainer(objectives.from_config(config, mesh), config, mesh).init()
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get(state.params),
    ema(workdir, state.params),
  )
  # A run that has begun needs it no more.
  gone = dataclasses.replace(config.dit, checkpoint=str(tmp_path / "gone"))
  begun = dataclasses.replace(config, dit=gone)
  assert interop.with_transformer(named(tmp_path / "gone", data=data), begun) == begun


def test_process_and_prediction_are_its_own(written, tmp_path):
  said = json.loads((written / "config.json").read_text())
  said["diffusion"] |= {"process": "ddpm", "schedule": "cosine", "prediction": "noise"}
  for file in written.iterdir():
    (tmp_path / file.name).symlink_to(file)
  (tmp_path / "config.json").unlink()
  (tmp_path / "config.json").write_text(json.dumps(said))
  diffusion = interop.with_transformer(named(tmp_path)).diffusion
  assert (diffusion.process, diffusion.schedule) == ("ddpm", "cosine")
  assert diffusion.prediction == "noise" and diffusion.shift == 1.5
  with pytest.raises(
    ValueError, match=r"config.diffusion.prediction='velocity'.*'noise'"
  ):
    config = interop.with_transformer(named(written))
    there = dataclasses.replace(config.dit, checkpoint=str(tmp_path))
    interop.transformer_weights(dataclasses.replace(config, dit=there), 4, 16)


def test_another_architecture_is_refused(written):
  config = named(written)
  wan = dataclasses.replace(config.dit, architecture="wan")
  with pytest.raises(ValueError, match=r"architecture='wan', but .* 'adaln'"):
    interop.with_transformer(dataclasses.replace(config, dit=wan))


def test_clips_are_those_of_the_run(workdir, written):
  mesh = tiny.mesh()
  said = config_lib.parse(json.loads((workdir / "config.json").read_text()))
  there = generator_lib.Generator.from_workdir(workdir, said, mesh)
  text = dataclasses.replace(
    tiny.CONFIG.text, checkpoint=str(workdir.parent / "data" / "text")
  )
  vae = dataclasses.replace(
    tiny.CONFIG.autoencoder, checkpoint=str(workdir.parent / "data" / "autoencoder")
  )
  config = interop.with_transformer(named(written, text=text, autoencoder=vae))
  here = generator_lib.Generator.from_published(config, mesh)
  request = request_lib.Request(
    prompt=tiny.PROMPTS[0], height=32, width=32, frames=5, frames_per_second=8.0
  )
  ((_, a),), ((_, b),) = there.generate([request]), here.generate([request])
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"channels": 0}, "channels=0 must be a whole number above 0"),
    ({"dit": {"width": 64}}, "'dit' must hold width, depth"),
    ({"text_width": 17}, "16 and needs|has .16, 64., needs .17, 64."),
  ],
)
def test_a_damaged_description_is_named(written, tmp_path, change, told):
  said = json.loads((written / "config.json").read_text()) | change
  for file in written.glob("*.safetensors*"):
    (tmp_path / file.name).symlink_to(file)
  (tmp_path / "config.json").write_text(json.dumps(said))
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


def test_kinds_and_classes_are_listed(tmp_path):
  assert own_dit.KINDS == ("adaln_dit",)
  (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
  with pytest.raises(ValueError, match="adaln_dit"):
    interop.load(tmp_path)
