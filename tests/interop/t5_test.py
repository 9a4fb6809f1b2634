"""T5 encoders of any size are recognised, checked, laid out and written back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop import encoders, torch_files
from video_dit import config as config_lib
from video_dit import interop
from video_dit.interop.tensors import open_tensors
from video_dit.parallel import mesh as mesh_lib


@pytest.mark.parametrize("kind", ["t5", "umt5"])
@pytest.mark.parametrize("described", [True, False])
def test_sizes_come_from_the_config_or_from_the_shapes(kind, described, tmp_path):
  config = {**encoders.CONFIG, "model_type": kind}
  encoders.write(tmp_path, config, kind)
  if not described:
    (tmp_path / "config.json").unlink()
  loaded = interop.load(tmp_path)
  sizes = loaded.config
  assert loaded.kind == kind and sizes.shared_bias == (kind == "t5")
  assert (sizes.vocabulary, sizes.width, sizes.depth) == (37, 20, 2)
  assert (sizes.heads, sizes.head_size, sizes.mlp_width) == (3, 5, 28)
  assert (sizes.buckets, sizes.max_distance, sizes.epsilon) == (8, 128, 1e-6)
  count = sum(a.size for a in encoders.arrays(config, kind).values())
  assert (loaded.parameters, loaded.ignored) == (count, 0)


@pytest.mark.parametrize("kind", ["t5", "umt5"])
@pytest.mark.parametrize("naming", ["transformers", "native"])
def test_load_save_load_gives_the_same(kind, naming, tmp_path):
  if kind == "t5" and naming == "native":
    pytest.skip("Wan's own files are of UMT5 alone")
  first, second = tmp_path / "first", tmp_path / "second"
  encoders.write(tmp_path, {**encoders.CONFIG, "model_type": kind}, kind)
  interop.save(interop.load(tmp_path), first, naming=naming)
  loaded = interop.load(first)
  interop.save(loaded, second)
  a, b = open_tensors(first), open_tensors(second)
  assert a.names == b.names and loaded.naming == naming
  for name in a.names:
    np.testing.assert_array_equal(a.read(name), b.read(name))
  if naming == "transformers":
    original = open_tensors(tmp_path)
    assert original.names == a.names
    for name in a.names:
      np.testing.assert_array_equal(a.read(name), original.read(name))


@pytest.mark.parametrize(
  ("kind", "change", "told"),
  [
    ("t5", {}, r"depth=2 \(but 1\), shared_bias=True \(but False\)"),
    ("t5", {"num_layers": 1}, r"with shared_bias=True \(but False\)"),
    ("umt5", {"relative_attention_max_distance": 64}, r"max_distance=64 \(but 128\)"),
    ("umt5", {"layer_norm_epsilon": 1e-5}, r"epsilon=1e-05 \(but 1e-06\)"),
  ],
)
def test_what_wans_own_file_cannot_say_is_refused(kind, change, told, tmp_path):
  config = {**encoders.CONFIG, "model_type": kind, **change}
  encoders.write(tmp_path, config, kind)
  with pytest.raises(ValueError, match=f"{told}.*--naming=transformers"):
    interop.save(interop.load(tmp_path), tmp_path / "native", naming="native")
  assert not (tmp_path / "native").exists()


def test_a_whole_checkpoint_gives_its_encoder(tmp_path):
  decoder = {n: np.zeros(3, np.float32) for n in ("decoder.block.0.x", "lm_head.weight")}
  table = encoders.arrays(encoders.CONFIG, "umt5")["shared.weight"]
  tied = {"encoder.embed_tokens.weight": table}
  encoders.write(tmp_path, encoders.CONFIG, "umt5", **decoder, **tied)
  loaded = interop.load(tmp_path)
  assert (loaded.tensors, loaded.ignored) == (22, 3)
  only = {"shared.weight": None}
  encoders.write(tmp_path, encoders.CONFIG, "umt5", **decoder, **tied, **only)
  np.testing.assert_array_equal(
    loaded.model.embedding[...], interop.load(tmp_path).model.embedding[...]
  )


def test_all_that_does_not_fit_is_told_at_once(tmp_path):
  block = "encoder.block.1.layer.1.DenseReluDense"
  wrong = {
    f"{block}.wo.weight": np.zeros((28, 20), np.float32),
    f"{block}.wi_0.weight": None,
    "encoder.block.7.extra": np.zeros((2,), np.float32),
    "encoder.final_layer_norm.weight": np.zeros((20,), np.int64),
  }
  encoders.write(tmp_path, encoders.CONFIG, "umt5", **wrong)
  with pytest.raises(ValueError) as raised:
    interop.load(tmp_path)
  told = str(raised.value)
  assert f"1 missing:\n    {block}.wi_0.weight (28, 20)" in told
  assert "1 extra:\n    encoder.block.7.extra (2,)" in told
  assert f"{block}.wo.weight has (28, 20), needs (20, 28)" in told
  assert "encoder.final_layer_norm.weight is int64" in told


def test_long_lists_are_cut(tmp_path):
  encoders.write(tmp_path, {**encoders.CONFIG, "num_layers": 2}, "umt5")
  config = json.loads((tmp_path / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps({**config, "num_layers": 4}))
  with pytest.raises(ValueError, match=r"20 missing:(\n.*){8}\n    and 12 more"):
    interop.load(tmp_path)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu', but T5 v1.1"),
    ({"num_heads": "three"}, "num_heads='three' must be a whole number"),
    ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon='1e-6' must be a number"),
    ({"layer_norm_epsilon": -1}, "layer_norm_epsilon=-1 must be a number above 0"),
    ({"d_model": 0}, "d_model=0 must be a whole number, 1 or more"),
  ],
)
def test_a_config_of_another_model_is_refused(change, told, tmp_path):
  encoders.write(tmp_path, encoders.CONFIG, "umt5")
  (tmp_path / "config.json").write_text(json.dumps({**encoders.CONFIG, **change}))
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


@pytest.mark.parametrize("name", ["mt5", "T5EncoderModel", None])
def test_a_config_counts_whatever_it_calls_the_model(name, tmp_path):
  said = {"model_type": name, "relative_attention_max_distance": 32, "num_heads": None}
  config = {**encoders.CONFIG, **said}
  arrays = encoders.arrays(encoders.CONFIG, "t5")
  encoders.write(tmp_path, encoders.CONFIG, "t5", **arrays)
  (tmp_path / "config.json").write_text(json.dumps(config))
  loaded = interop.load(tmp_path)
  assert (loaded.kind, loaded.config.max_distance) == ("t5", 32)
  assert loaded.config.heads == 3  # as the shapes say where the config does not
  interop.save(loaded, tmp_path / "again")
  again = interop.load(tmp_path / "again")
  assert (again.kind, again.config) == (loaded.kind, loaded.config)
  (tmp_path / "config.json").write_text(
    json.dumps({**config, "feed_forward_proj": "gated-silu"})
  )
  with pytest.raises(ValueError, match="feed_forward_proj='gated-silu', but T5"):
    interop.load(tmp_path)


def test_what_is_not_known_is_told(tmp_path):
  encoders.write(tmp_path, encoders.CONFIG, "umt5")
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match=r"config.json: is not JSON"):
    interop.load(tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "bert"}')
  for file in tmp_path.glob("*.safetensors"):
    file.unlink()
  tensors = {"bert.pooler.weight": np.zeros(2, np.float32)}
  torch_files.save(tmp_path / "pytorch_model.bin", tensors)
  with pytest.raises(
    ValueError, match=r"not a supported .*'bert'.*bert.pooler.weight.*AutoencoderKLWan"
  ):
    interop.load(tmp_path)


def test_our_own_format_is_sent_to_its_reader(tmp_path):
  tensors = {"weight": np.zeros(2, np.float32)}
  torch_files.save(tmp_path / "pytorch_model.bin", tensors)
  (tmp_path / "autoencoder.json").write_text("{}")
  with pytest.raises(ValueError, match=r"own format .* interop.autoencoder reads"):
    interop.load(tmp_path)


def test_parameters_are_laid_over_a_mesh_in_the_dtype_asked_for(tmp_path):
  config = {**encoders.CONFIG, "num_heads": 4, "vocab_size": 36}
  encoders.write(tmp_path, config, "umt5")
  mesh = mesh_lib.start("cpu:8,fsdp=4,tensor=2", config_lib.Mesh())
  whole = interop.load(tmp_path)
  laid = interop.load(tmp_path, dtype="bfloat16", mesh=mesh)
  gate = laid.model.blocks.gate.kernel[...]
  assert gate.dtype == jnp.bfloat16
  assert gate.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")
  assert gate.addressable_shards[0].data.shape == (2, 5, 14)
  for a, b in zip(*map(encoders.leaves, (whole, laid)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1 / 128)
