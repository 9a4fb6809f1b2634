"""A published transformer of Wan's is fine-tuned packed, sampled and written back."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests import tiny
from tests.interop import wan_transformers
from video_dit import config as config_lib
from video_dit import interop
from video_dit.checkpoints.store import Store
from video_dit.convert import run as convert
from video_dit.generator import generator as generator_lib
from video_dit.generator import request as request_lib
from video_dit.interop.tensors import open_tensors
from video_dit.parallel import mesh as mesh_lib
from video_dit.train import loop, objectives
from video_dit.train import workdir as workdir_lib
from video_dit.trainer.step import Trainer

# Of the latents and captions of the tiny data set.
_SIZES = wan_transformers.CONFIG | {
  **{"in_channels": 4, "out_channels": 4, "patch_size": [1, 2, 2], "text_dim": 16},
  **{"attention_head_dim": 12, "num_attention_heads": 2, "num_layers": 2},
  **{"ffn_dim": 32, "freq_dim": 16},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  folder = tmp_path_factory.mktemp("published") / "transformer"
  wan_transformers.write(folder, _SIZES, shard_bytes=20_000)
  return folder


@pytest.fixture(scope="module")
def mesh():
  return mesh_lib.make(jax.devices()[:2], (1, 2, 1, 1))


@pytest.fixture(scope="module")
def config(published, tmp_path_factory):
  data = tiny.run_once(tmp_path_factory).parent / "data"
  section = config_lib.DiT(architecture="wan", checkpoint=str(published), rope_side=16.0)
  return interop.with_transformer(
    dataclasses.replace(
      tiny.CONFIG,
      dit=section,
      data=dataclasses.replace(tiny.CONFIG.data, path=str(data)),
      optimizer=config_lib.Optimizer(learning_rate=3e-3, warmup_steps=1),
      train=config_lib.Train(
        **{"steps": 3, "compute_dtype": "float32", "ema_decay": 0.5, "log_every": 1},
        **{"checkpoint_every": 3, "evaluate_every": 0, "sample_every": 0, "keep": 1},
      ),
    )
  )


@pytest.fixture(scope="module")
def workdir(config, mesh, tmp_path_factory):
  folder = tmp_path_factory.mktemp("wan")
  assert loop.train(objectives.from_config(config, mesh), config, mesh, folder)
  return folder


def test_a_new_run_starts_from_the_published_weights(config, mesh, published):
  state = Trainer(objectives.from_config(config, mesh), config, mesh).init()
  expected = interop.load(published).params
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state.params, expected)))
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state.ema, expected)))
  up = state.params["blocks"]["up"]["kernel"]
  assert up.sharding.shard_shape(up.shape) == (2, 12, 32)
  pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True)
  assert all(a is not b for a, b in pairs)


def test_a_run_goes_on_without_what_it_started_from(
  config, workdir, mesh, published, tmp_path
):
  folder = tmp_path / "wan"
  shutil.copytree(workdir, folder)
  gone = dataclasses.replace(config.dit, checkpoint=str(tmp_path / "gone"))
  said = json.loads((folder / "config.json").read_text())
  said["dit"]["checkpoint"] = gone.checkpoint
  (folder / "config.json").write_text(json.dumps(said))
  longer = dataclasses.replace(config.train, steps=4)
  plain = config_lib.DiT(architecture="wan", checkpoint=gone.checkpoint)
  again = dataclasses.replace(config, dit=plain, train=longer)
  assert workdir_lib.begun(tmp_path) is None
  begun = workdir_lib.begun(folder)
  again = interop.with_transformer(again, begun)
  assert again.dit == gone
  objective = objectives.from_config(again, mesh, begun=True)
  assert loop.train(objective, again, mesh, folder)
  with pytest.raises(ValueError, match="is not a transformer"):
    objectives.from_config(again, mesh)
  elsewhere = dataclasses.replace(gone, checkpoint=str(published))
  other = dataclasses.replace(again, dit=elsewhere)
  assert interop.with_transformer(other, begun).dit.checkpoint == str(published)


def test_what_was_learnt_is_written_as_it_was_published(
  workdir, published, config, tmp_path
):
  told = "\n".join(convert.convert(workdir, tmp_path / "transformer", step=3))
  assert "kind        wan_dit, names of diffusers" in told
  with pytest.raises(ValueError, match=r"no checkpoint of step 2; there are \[3\]"):
    list(convert.convert(workdir, None, step=2))
  before, after = open_tensors(published), open_tensors(tmp_path / "transformer")
  assert before.names == after.names
  assert f"  tensors     {len(after.names)}, and 0 ignored" in told
  moved = [n for n in before.names if (before.read(n) != after.read(n)).any()]
  assert moved == list(before.names)
  said = json.loads((tmp_path / "transformer" / "config.json").read_text())
  assert {**_SIZES, **said} == _SIZES
  loaded = interop.load(tmp_path / "transformer")
  with Store(workdir / "checkpoints") as store:
    ema = store.restore_ema(jax.tree.map(np.asarray, loaded.params))
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((loaded.params, ema)))


def test_a_run_samples_what_it_is_asked_for(workdir, config, mesh):
  generator = generator_lib.Generator.from_workdir(workdir, config, mesh)
  request = request_lib.Request(
    prompt=tiny.PROMPTS[0], height=32, width=24, frames=5, frames_per_second=8.0
  )
  given = dataclasses.replace(request, given_FHWC=np.zeros((1, 32, 24, 3), np.uint8))
  for asked in (request, given):
    ((_, frames_FHWC),) = generator.generate([asked])
    assert frames_FHWC.shape == (5, 32, 24, 3)


@pytest.mark.parametrize(
  ("section", "key", "value"),
  [
    ("dit", "rope_seconds", 0.25),
    ("dit", "rope_side", 16.0),
    ("dit", "rope_theta", 256.0),
    ("dit", "rope_fractions", [0.6, 0.2, 0.2]),
    ("diffusion", "prediction", "noise"),
    ("diffusion", "process", "ddpm"),
  ],
)
def test_what_a_published_format_cannot_say_is_not_written(
  section, key, value, workdir, tmp_path
):
  said = json.loads((workdir / "config.json").read_text())
  said["dit"]["checkpoint"] = ""
  said[section][key] = value
  (tmp_path / "config.json").write_text(json.dumps(said))
  (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
  with pytest.raises(ValueError, match=rf"trained with config\.{section}\.{key}="):
    list(convert.convert(tmp_path, tmp_path / "out"))
  assert not (tmp_path / "out").exists()
