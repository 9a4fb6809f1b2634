"""The encoders of a plan are those that `preprocess` would hold."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from tests.interop import encoders as t5_files
from tests.interop import wan_transformers
from video_dit import config as config_lib
from video_dit import interop
from video_dit.interop import tensors
from video_dit.models.autoencoder import store
from video_dit.plan import chips, encoders, programs, run


def _config(**sections):
  return dataclasses.replace(
    tiny.CONFIG,
    **{
      name: dataclasses.replace(getattr(tiny.CONFIG, name), **changes)
      for name, changes in sections.items()
    },
  )


def _layouts(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


@pytest.fixture
def umt5(tmp_path):
  sizes = t5_files.CONFIG | {"d_model": 24, "d_ff": 32}
  t5_files.write(tmp_path / "umt5", sizes, "umt5")
  return str(tmp_path / "umt5")


def test_a_published_text_encoder_is_planned_as_it_is_loaded(umt5, monkeypatch):
  config = _config(text={"checkpoint": umt5, "dtype": "bfloat16"})
  mesh = tiny.mesh("data=2,fsdp=4")
  loaded = interop.load(umt5, dtype="bfloat16", mesh=mesh)
  monkeypatch.setattr(tensors.Tensors, "read", None)  # no weights are read
  text = encoders.text_encoder(config, mesh)
  assert _layouts(text.params) == _layouts(loaded.params)
  assert text.mesh == mesh and text.at_once == 1
  assert "umt5" in text.what and "bfloat16, over 8 devices" in text.what
  # The transformer's texts are as wide as that encoder's.
  assert encoders.resolved(config).text.width == 24


def test_without_an_axis_that_splits_weights_one_device_has_them_all(umt5):
  config = _config(text={"checkpoint": umt5})
  text = encoders.text_encoder(config, tiny.mesh("data=8"))
  assert text.mesh.size == 1
  assert programs.device_bytes(text.params) == programs.global_bytes(text.params)


def test_wans_own_encoders_are_planned_where_none_are_named():
  for name in ("wan_1_3b", "wan_14b"):
    config = config_lib.parse(config_lib.load(f"configs/{name}.py"))
    text = encoders.text_encoder(config, tiny.mesh("fsdp=8"))
    assert {x.dtype for x in jax.tree.leaves(text.params)} == {jnp.bfloat16.dtype}
    assert sum(x.size for x in jax.tree.leaves(text.params)) == 5_680_910_336
    assert programs.device_bytes(text.params) == pytest.approx(11.36e9 / 8, rel=0.01)
    model, what = encoders.autoencoder(config)
    assert "Wan 2.1's" in what and type(model).__name__ == "Wan"
  # 7b has Wan's blocks, and other encoders.
  config = config_lib.parse(config_lib.load("configs/7b.py"))
  assert "T5 v1.1" in encoders.text_encoder(config, tiny.mesh()).what


def test_an_exported_autoencoder_is_planned_by_its_description(tmp_path, monkeypatch):
  tiny.frozen(tmp_path)
  (tmp_path / store.WEIGHTS).unlink()
  config = _config(autoencoder={"checkpoint": str(tmp_path), "widths": (8, 8, 8)})
  model, what = encoders.autoencoder(config)
  plain, _ = encoders.autoencoder(tiny.CONFIG)
  assert str(tmp_path) in what
  assert jax.tree.leaves(jax.tree.map(jnp.shape, model)) == jax.tree.leaves(
    jax.tree.map(jnp.shape, plain)
  )
  config = _config(autoencoder={"checkpoint": str(tmp_path), "channels": 8})
  with pytest.raises(ValueError, match=r"--config\.autoencoder\.channels=4"):
    encoders.autoencoder(config)
  config = _config(autoencoder={"checkpoint": str(tmp_path / "gone")})
  assert "gone is not there, so" in encoders.autoencoder(config)[1]


def test_memory_is_that_of_all_that_preprocess_holds():
  request = run.Request(
    config=tiny.CONFIG,
    topology=chips.parse("cpu:8"),
    axes={"data": 4, "fsdp": 2},
    stages=("encode",),
  )
  found = run.plan(request)["encoder"]
  model, _ = encoders.autoencoder(tiny.CONFIG)
  for name, other in (("autoencoder", "text"), ("text", "autoencoder")):
    memory = found[name]["memory"]
    classes = set(memory) - {"total", "available", "host"}
    assert all(memory[key] >= 0 for key in classes), memory
    assert sum(memory[key] for key in classes) == pytest.approx(memory["total"])
    beside = found[other]["memory"]
    assert memory["other_encoder"] == beside["total"] - beside["other_encoder"] > 0
  # Of the decoder too, which no program of preprocess runs.
  assert found["autoencoder"]["memory"]["parameters"] == programs.global_bytes(
    encoders.parameters(model)
  )


def test_large_frames_are_planned_in_tiles():
  assert encoders._tile((720, 1280), 8, 2_000_000) == (720, 1280)
  assert encoders._tile((720, 1280), 8, 500_000) == (720, 640)
  assert encoders._tile((720, 1280), 8, 240_000) == (360, 640)


def test_a_transformer_that_is_named_gives_its_sizes(tmp_path):
  wan_transformers.write(tmp_path, wan_transformers.CONFIG)
  named = {"architecture": "wan", "checkpoint": str(tmp_path), "text_length": 512}
  sizes = {"text": {"width": 11}, "sample": {"width": 36}}  # of patches of 3 columns
  config = _config(dit=named, autoencoder={"channels": 5}, **sizes)
  found = encoders.resolved(config).dit
  assert (found.width, found.depth, found.heads) == (42, 3, 3)
  with pytest.raises(ValueError, match=r"5 channels.*of config.autoencoder"):
    encoders.resolved(_config(dit=named, **sizes))
  gone = dict(named, checkpoint=str(tmp_path / "gone"))
  with pytest.raises(ValueError, match="is not a transformer"):
    encoders.resolved(_config(dit=gone))
