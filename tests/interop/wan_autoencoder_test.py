"""Wan's autoencoders as files: recognised, read, written, refused by name."""

import dataclasses
import json
import shutil

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from video_dit import interop
from video_dit.interop import wan_autoencoder, wan_autoencoder_names
from video_dit.models.autoencoder.wan import Wan, WanConfig

_FIXTURES = ("wan21_vae", "wan21_vae_native", "wan22_vae")


@pytest.fixture(params=_FIXTURES)
def folder(shared, request):
  return shared / "parity" / request.param


def _equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_load_save_load(folder, tmp_path):
  loaded = interop.load(folder)
  assert loaded.kind == "wan_autoencoder" and loaded.licence == "Apache-2.0"
  interop.save(loaded, tmp_path)
  again = interop.load(tmp_path)
  assert (again.config, again.naming) == (loaded.config, loaded.naming)
  _equal(again.params, loaded.params)
  if loaded.naming == "diffusers":
    kept = json.loads((folder / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == kept


def test_both_namings_are_one_autoencoder(shared, tmp_path):
  theirs = interop.load(shared / "parity" / "wan21_vae")
  own = interop.load(shared / "parity" / "wan21_vae_native" / "Wan2.1_VAE.pth")
  _equal(theirs.params, own.params)
  assert own.config.latents_mean == theirs.config.latents_mean
  interop.save(own, tmp_path, naming="diffusers")
  again = interop.load(tmp_path)
  assert again.naming == "diffusers"
  _equal(again.params, own.params)


def test_sizes_follow_from_the_shapes_of_wans_own_file(shared, tmp_path):
  """Of 2.2 too, whose published statistics go with 48 channels."""
  theirs = interop.load(shared / "parity" / "wan22_vae")
  with pytest.raises(ValueError, match=r"latents_mean=.*latents_std=.*naming=diffusers"):
    interop.save(theirs, tmp_path / "other", naming="native")
  assert not (tmp_path / "other").exists()
  theirs = _with(theirs, **wan_autoencoder.statistics_of(48))
  interop.save(theirs, tmp_path, naming="native")
  own = interop.load(tmp_path)
  assert own.naming == "native"
  for key in ("base_dim", "decoder_base_dim", "z_dim", "dim_mult", "num_res_blocks"):
    assert getattr(own.config, key) == getattr(theirs.config, key), key
  for key in ("temperal_downsample", "patch_size", "is_residual", "attn_scales"):
    assert getattr(own.config, key) == getattr(theirs.config, key), key
  assert own.config.latents_mean[:2] == (-0.2289, -0.0052)
  assert own.config.latents_std[-2:] == (0.7468, 0.7744)
  _equal(own.params, theirs.params)


def _with(loaded, **sizes):
  return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, **sizes))


def _small(**sizes) -> interop.Loaded:
  """An autoencoder with random weights, as if it had been read."""
  arch = WanConfig(base_dim=4, dim_mult=(1, 1), temperal_downsample=(True,), **sizes)
  model = jax.jit(lambda: Wan(arch, rngs=nnx.Rngs(0)))()
  dtypes = (np.dtype("float32"),)
  return interop.Loaded(
    wan_autoencoder.KINDS[0], model, arch, "diffusers", None, (), dtypes, 0
  )


def test_what_wans_own_file_cannot_say_is_refused_before_it_is_written(tmp_path):
  statistics = {"latents_mean": (0.0,) * 8, "latents_std": (1.0,) * 8}
  for loaded, told in (
    (_small(z_dim=8, **statistics), r"has 8 latent channels.*naming=diffusers"),
    (_small(latents_std=(2.0,) * 16), r"latents_std=\(2\.0.*naming=diffusers"),
  ):
    with pytest.raises(ValueError, match=told):
      interop.save(loaded, tmp_path / "native", naming="native")
    assert not (tmp_path / "native").exists()
    interop.save(loaded, tmp_path / str(loaded.config.z_dim))
    assert interop.load(tmp_path / str(loaded.config.z_dim)).config.latents_std == (
      loaded.config.latents_std
    )
  interop.save(_small(), tmp_path / "native", naming="native")
  _equal(interop.load(tmp_path / "native").params, _small().params)


def test_a_naming_that_is_not_there_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"'transformers' is not a naming of wan_auto"):
    interop.save(_small(), tmp_path / "other", naming="transformers")


def _names(arch: WanConfig) -> set[str]:
  """Names of all tensors in a file of Wan's own."""
  state = nnx.state(nnx.eval_shape(lambda: Wan(arch, rngs=nnx.Rngs(0))))
  paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
  return {rule.theirs for rule in wan_autoencoder_names.table(arch, "native", paths)}


def test_names_of_the_published_sizes():
  """As in the files of Wan-AI: 194 tensors in 2.1, and levels in 2.2."""
  sizes = {"latents_mean": (0.0,) * 48, "latents_std": (1.0,) * 48}
  big = WanConfig(
    base_dim=160, decoder_base_dim=256, z_dim=48, patch_size=2, is_residual=True, **sizes
  )
  names = _names(WanConfig())
  assert len(names) == 194
  assert {
    "decoder.upsamples.4.shortcut.weight",
    "decoder.upsamples.7.time_conv.weight",
    "encoder.downsamples.10.residual.6.bias",
    "encoder.middle.1.norm.gamma",
  } <= names
  names = _names(big)
  assert {
    "decoder.upsamples.0.upsamples.3.time_conv.weight",
    "decoder.upsamples.2.upsamples.0.shortcut.weight",
    "encoder.downsamples.1.downsamples.2.resample.1.weight",
  } <= names


def test_old_configs_that_leave_keys_out_have_wan_21s_values(shared, tmp_path):
  shutil.copytree(shared / "parity" / "wan21_vae", tmp_path, dirs_exist_ok=True)
  path = tmp_path / "config.json"
  path.chmod(0o644)
  path.write_text(json.dumps({"_class_name": "AutoencoderKLWan", "base_dim": 4}))
  assert interop.load(tmp_path).config == interop.load(shared / "parity/wan21_vae").config


def test_the_dtype_asked_for(shared):
  loaded = interop.load(shared / "parity" / "wan21_vae", dtype="bfloat16")
  assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {jnp.dtype("bfloat16")}


def test_tensors_that_do_not_fit_are_listed(shared, tmp_path):
  source = shared / "parity" / "wan21_vae"
  (tmp_path / "config.json").write_text((source / "config.json").read_text())
  name = "diffusion_pytorch_model.safetensors"
  tensors = safetensors.load_file(source / name)
  del tensors["quant_conv.bias"]
  tensors["encoder.conv_out.bias"] = np.zeros(3, np.float32)
  tensors["encoder.extra"] = np.zeros(1, np.float32)
  safetensors.save_file(tensors, tmp_path / name)
  with pytest.raises(ValueError) as error:
    interop.load(tmp_path)
  for part in (
    "1 missing:\n    quant_conv.bias",
    "1 extra:\n    encoder.extra",
    "encoder.conv_out.bias has (3,), needs (32,)",
  ):
    assert part in str(error.value)


def test_diffusers_names_without_their_config_are_refused(shared, tmp_path):
  name = "diffusion_pytorch_model.safetensors"
  shutil.copy(shared / "parity" / "wan21_vae" / name, tmp_path)
  with pytest.raises(ValueError, match=r"no config.json with _class_name='Autoencoder"):
    interop.load(tmp_path)


def test_another_class_under_the_same_names_is_refused_by_name(shared, tmp_path):
  """As Qwen-Image's, which has other statistics."""
  source = shared / "parity" / "wan21_vae"
  shutil.copyfile(
    source / "diffusion_pytorch_model.safetensors", tmp_path / "model.safetensors"
  )
  (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLQwenImage"}')
  told = r"config\.json: is of 'AutoencoderKLQwenImage', .*AutoencoderKLWan.* not support"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


def test_channels_whose_statistics_nobody_published_are_refused(shared, tmp_path):
  loaded = interop.load(shared / "parity" / "wan21_vae_native")
  tensors = {f"x{i}": np.zeros(1, np.float32) for i in range(2)}
  interop.save(loaded, tmp_path)
  (path,) = tmp_path.glob("*.safetensors")
  tensors = safetensors.load_file(path)
  tensors["conv2.weight"] = np.zeros((8, 8, 1, 1, 1), np.float32)
  safetensors.save_file(tensors, path)
  with pytest.raises(ValueError, match=r"has 8 latent channels and no config\.json"):
    interop.load(tmp_path)


def test_the_autoencoder_of_a_config(folder):
  frozen = interop.autoencoder(folder)
  loaded = interop.load(folder)
  sizes = (16, 8, 4) if loaded.config.z_dim == 16 else (48, 16, 4)
  assert (frozen.channels, frozen.space, frozen.time) == sizes
  assert len(frozen.fingerprint) == 32
  assert frozen.fingerprint == interop.autoencoder_fingerprint(folder)
  np.testing.assert_array_equal(frozen.mean, np.float32(loaded.config.latents_mean))


def test_the_fingerprint_is_of_the_bytes(shared, tmp_path):
  source = shared / "parity" / "wan21_vae"
  for name in ("config.json", "diffusion_pytorch_model.safetensors"):
    shutil.copy(source / name, tmp_path)
    (tmp_path / name).chmod(0o644)
  first = interop.autoencoder_fingerprint(source)
  assert interop.autoencoder_fingerprint(tmp_path) == first
  with (tmp_path / name).open("r+b") as file:
    file.seek(-1, 2)
    last = file.read(1)
    file.seek(-1, 2)
    file.write(bytes([last[0] ^ 1]))
  assert interop.autoencoder_fingerprint(tmp_path) != first


def test_what_is_no_autoencoder_is_refused(shared, tmp_path):
  with pytest.raises(ValueError, match=r"config.autoencoder.checkpoint=.* neither"):
    interop.autoencoder(tmp_path)
  with pytest.raises(ValueError, match=r"is of the kind 't5'"):
    interop.autoencoder(shared / "parity" / "t5_v1_1")
