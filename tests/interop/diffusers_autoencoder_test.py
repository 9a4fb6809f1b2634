"""CogVideoX's, HunyuanVideo's and Stable Diffusion's autoencoders as files."""

import dataclasses
import json
import shutil

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from video_dit import interop
from video_dit.interop import stable_autoencoder
from video_dit.models.autoencoder import stable
from video_dit.parallel import mesh as mesh_lib

_FIXTURES = {
  "cogvideox_vae": ("cogvideox_autoencoder", "diffusers", "CogVideoX licence"),
  "hunyuan_vae": ("hunyuan_autoencoder", "diffusers", "not hold in the European Union"),
  "sd_vae": ("sd_autoencoder", "diffusers", "MIT"),
  "sd_vae/deprecated_names": ("sd_autoencoder", "diffusers-old", "MIT"),
}
_WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("fixture", _FIXTURES)
def test_load_save_load(shared, tmp_path, fixture):
  """The tensors and the config.json are again those that were read."""
  folder = shared / "parity" / fixture
  loaded = interop.load(folder)
  assert (loaded.kind, loaded.naming) == _FIXTURES[fixture][:2]
  assert _FIXTURES[fixture][2] in loaded.licence
  interop.save(loaded, tmp_path)
  kept = json.loads((folder / "config.json").read_text())
  assert json.loads((tmp_path / "config.json").read_text()) == kept
  theirs, written = (safetensors.load_file(f / _WEIGHTS) for f in (folder, tmp_path))
  assert theirs.keys() == written.keys() and loaded.tensors == len(theirs)
  for name, value in theirs.items():
    np.testing.assert_array_equal(written[name], value)
  again = interop.load(tmp_path)
  assert again.config == loaded.config
  jax.tree.map(
    np.testing.assert_array_equal, *map(jax.device_get, (again.params, loaded.params))
  )


def test_both_namings_of_attention_are_one_autoencoder(shared, tmp_path):
  new = interop.load(shared / "parity" / "sd_vae")
  old = interop.load(shared / "parity" / "sd_vae" / "deprecated_names")
  jax.tree.map(
    np.testing.assert_array_equal, *map(jax.device_get, (new.params, old.params))
  )
  interop.save(old, tmp_path, naming="diffusers")
  assert interop.load(tmp_path).naming == "diffusers"
  with pytest.raises(ValueError, match=r"the naming diffusers, diffusers-old; 'x'"):
    interop.save(old, tmp_path, naming="x")


def test_parameters_are_laid_over_a_mesh_as_far_as_they_divide(shared):
  mesh = mesh_lib.make(jax.devices(), (2, 4, 1, 1))
  folder = shared / "parity" / "sd_vae"
  decoder = interop.load(folder, mesh=mesh, dtype="bfloat16").params["decoder"]
  kernels = [decoder[name]["kernel"] for name in ("conv_in", "conv_out")]
  assert [k.shape[-1] for k in kernels] == [12, 3]
  assert [k.sharding.shard_shape(k.shape)[-1] for k in kernels] == [3, 3]
  assert {k.dtype for k in kernels} == {jax.numpy.bfloat16.dtype}


@pytest.fixture
def copy(shared, tmp_path):
  """A checkpoint whose files may be changed."""
  for name in ("config.json", _WEIGHTS):
    shutil.copyfile(shared / "parity" / "hunyuan_vae" / name, tmp_path / name)
  return tmp_path


def _change(folder, **values):
  path = folder / "config.json"
  config = json.loads(path.read_text()) | values
  path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_tensors_that_do_not_fit_are_listed(copy):
  tensors = safetensors.load_file(copy / _WEIGHTS)
  name = "decoder.mid_block.attentions.0.to_q.weight"
  tensors["decoder.more"] = tensors.pop(name)
  tensors["encoder.conv_in.conv.bias"] = np.zeros(3, np.float32)
  safetensors.save_file(tensors, copy / _WEIGHTS)
  with pytest.raises(ValueError) as error:
    interop.load(copy)
  for told in (
    f"1 missing:\n    {name} (12, 12)",
    "1 extra:\n    decoder.more (12, 12)",
    "1 of the wrong shape:\n    encoder.conv_in.conv.bias has (3,), needs (8,)",
  ):
    assert told in str(error.value)


@pytest.mark.parametrize(
  ("values", "told"),
  [
    ({"act_fn": "gelu"}, "act_fn is 'gelu'; only 'silu' .* others are not supported"),
    ({"temporal_compression_ratio": 8}, "temporal_compression_ratio is 8: the decoder"),
    (
      {"spatial_compression_ratio": 6},
      "spatial_compression_ratio is 6: a power of two .* others are not supported",
    ),
    (
      {"up_block_types": ["Other"] * 4},
      "up_block_types has 'Other'; .*VideoUpBlock3D.* others are not supported",
    ),
    ({"layers_per_block": 0}, "layers_per_block is 0; .* others are not supported"),
    ({"block_out_channels": [8, 12]}, "down_block_types has 4 entries, .*channels 2"),
    ({"norm_num_groups": 3}, "norm_num_groups 3 does not divide a width of 8"),
    (
      {"block_out_channels": ["8"] * 4},
      r"block_out_channels is \('8', .*; something like",
    ),
    ({"layers_per_block": "two"}, "layers_per_block is 'two'; something like 2"),
  ],
  ids=str,
)
def test_a_config_of_another_architecture_is_refused_by_name(copy, values, told):
  _change(copy, **values)
  with pytest.raises(ValueError, match=told):
    interop.load(copy)


def test_without_its_config_a_checkpoint_is_refused_by_name(copy):
  (copy / "config.json").unlink()
  with pytest.raises(
    ValueError, match=r"those of AutoencoderKLHunyuanVideo, but .*config"
  ):
    interop.load(copy)


def test_keys_that_the_config_leaves_out_have_the_peers_defaults(copy):
  absent = ("mid_block_add_attention", "scaling_factor", "layers_per_block", "act_fn")
  _change(copy, **dict.fromkeys(absent, ...))
  loaded = interop.load(copy)
  mean, std = loaded.model.statistics
  np.testing.assert_allclose(std, np.full(16, 1 / 0.476986), rtol=1e-6)
  assert not mean.any()


@pytest.mark.parametrize("name", ["in_channels", "out_channels"])
def test_an_autoencoder_of_more_than_colours_is_not_used_frozen(name, shared, tmp_path):
  """As of pictures with an alpha plane."""
  arch = dataclasses.replace(interop.load(shared / "parity/sd_vae").config, **{name: 4})
  model = nnx.eval_shape(lambda: stable.Stable(arch, rngs=nnx.Rngs(0)))
  zeros = jax.tree.map(lambda x: jax.numpy.zeros(x.shape), nnx.state(model))
  nnx.update(model, zeros)
  kind = stable_autoencoder.FORMAT.kind
  interop.save(interop.Loaded(kind, model, arch, "diffusers", None, (), (), 0), tmp_path)
  assert interop.load(tmp_path).config == arch
  takes, gives = arch.in_channels, arch.out_channels
  told = rf"takes {takes} channels per pixel and gives {gives}; clips have 3\. Name"
  with pytest.raises(ValueError, match=told):
    interop.autoencoder(tmp_path)
