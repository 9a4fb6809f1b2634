"""Wan's transformers as files: recognised, read, written, refused by name."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.interop import wan_transformers
from video_dit import config as config_lib
from video_dit import interop
from video_dit.interop.tensors import open_tensors
from video_dit.models.dit.wan_config import WanConfig, of_section
from video_dit.parallel import mesh as mesh_lib

_SIZES = WanConfig(
  **{"width": 42, "depth": 3, "heads": 3, "mlp_width": 50, "channels": 5},
  **{"patch": (1, 2, 3), "text_width": 11, "frequencies": 36},
)

# Arguments of Wan's own class, which its config.json overrides.
_WANS_DEFAULTS = {
  **{"model_type": "t2v", "patch_size": [1, 2, 2], "text_len": 512, "in_dim": 16},
  **{"dim": 2048, "ffn_dim": 8192, "freq_dim": 256, "text_dim": 4096, "out_dim": 16},
  **{"num_heads": 16, "num_layers": 32, "window_size": [-1, -1], "qk_norm": True},
  **{"cross_attn_norm": True, "eps": 1e-6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("wan") / "transformer"
  wan_transformers.write(path, shard_bytes=30_000)
  return path


def _assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def _assert_same_tensors(one, other):
  before, after = open_tensors(one), open_tensors(other)
  assert before.names == after.names
  for name in before.names:
    np.testing.assert_array_equal(before.read(name), after.read(name), err_msg=name)


def test_load_save_load(folder, tmp_path):
  loaded = interop.load(folder)
  assert (loaded.kind, loaded.naming) == ("wan_dit", "diffusers")
  assert loaded.config == _SIZES and loaded.licence == "Apache-2.0"
  assert loaded.tensors == len(open_tensors(folder).names) and loaded.ignored == 0
  interop.save(loaded, tmp_path)
  _assert_same_tensors(folder, tmp_path)
  _assert_equal(interop.load(tmp_path).params, loaded.params)
  kept = json.loads((folder / "config.json").read_text())
  assert json.loads((tmp_path / "config.json").read_text()) == kept


def test_both_namings_are_one_transformer(folder, tmp_path):
  loaded = interop.load(folder)
  interop.save(loaded, tmp_path / "native", naming="native", dtype="bfloat16")
  native = interop.load(tmp_path / "native", dtype=None)
  assert native.naming == "native" and native.dtypes == (jax.numpy.bfloat16,)
  assert native.config == _SIZES
  said = json.loads((tmp_path / "native" / "config.json").read_text())
  assert _WANS_DEFAULTS | said == _WANS_DEFAULTS | {
    **{"_class_name": "WanModel", "dim": 42, "ffn_dim": 50, "freq_dim": 36, "in_dim": 5},
    **{"num_heads": 3, "num_layers": 3, "out_dim": 5, "patch_size": [1, 2, 3]},
    "text_dim": 11,
  }
  interop.save(native, tmp_path / "back", naming="diffusers")
  back = open_tensors(tmp_path / "back")
  for name, array in wan_transformers.arrays(wan_transformers.CONFIG).items():
    np.testing.assert_array_equal(
      back.read(name), array.astype(jax.numpy.bfloat16), err_msg=name
    )


def test_a_caption_length_of_its_own_is_not_lost(folder, tmp_path):
  loaded = interop.load(folder)
  short = dataclasses.replace(
    loaded, config=dataclasses.replace(loaded.config, text_length=64)
  )
  with pytest.raises(ValueError, match=r"text_length=64: .* 512 .* --naming=native"):
    interop.save(short, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  interop.save(short, tmp_path / "out", naming="native")
  assert interop.load(tmp_path / "out").config.text_length == 64


def test_fixtures_come_back_as_they_were(shared, tmp_path):
  for name in ("wan_dit", "wan_dit_native"):
    source = shared / "parity" / name
    loaded = interop.load(source)
    interop.save(loaded, tmp_path / name)
    _assert_same_tensors(source, tmp_path / name)
    kept = json.loads((source / "config.json").read_text())
    if name == "wan_dit_native":  # a config that leaves out what are Wan's defaults
      kept |= {"patch_size": [1, 2, 2], "text_dim": loaded.config.text_width}
    assert json.loads((tmp_path / name / "config.json").read_text()) == kept
  theirs, own = (interop.load(tmp_path / n) for n in ("wan_dit", "wan_dit_native"))
  _assert_equal(theirs.params, own.params)


@pytest.mark.parametrize(
  ("key", "value", "told"),
  [
    ("text_dim", 12, r"text_dim=12, but the tensors have 11"),
    (
      "patch_size",
      [1, 3, 2],
      r"patch_size=\[1, 3, 2\], but the tensors have \[1, 2, 3\]",
    ),
    ("num_heads", None, r"num_heads=None must be a whole number"),
  ],
)
def test_a_native_config_that_contradicts_the_tensors_is_refused(
  folder, key, value, told, tmp_path
):
  interop.save(interop.load(folder), tmp_path, naming="native")
  path = tmp_path / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
  with pytest.raises(ValueError, match=rf"config\.json: {told}"):
    interop.load(tmp_path)


def test_without_a_config_heads_are_128_wide(tmp_path, caplog):
  sizes = wan_transformers.CONFIG | {
    **{"attention_head_dim": 128, "num_attention_heads": 2, "num_layers": 1},
    **{"text_dim": 8, "ffn_dim": 8},
  }
  wan_transformers.write(tmp_path, sizes)
  (tmp_path / "config.json").unlink()
  assert interop.load(tmp_path).config.heads == 2
  (told,) = caplog.messages
  assert "no config.json says how many heads there are: 2 are assumed" in told
  shutil.move(
    tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "a.safetensors"
  )
  assert interop.load(tmp_path / "a.safetensors").kind == "wan_dit"


@pytest.mark.parametrize(("heads", "width"), [(5, 64), (3, 14)])
@pytest.mark.parametrize("described", [True, False])
def test_heads_are_not_guessed(heads, width, described, tmp_path):
  """Neither 320 nor 42 is a multiple of 128."""
  sizes = {"num_attention_heads": heads, "attention_head_dim": width, "num_layers": 1}
  wan_transformers.write(tmp_path, wan_transformers.CONFIG | sizes)
  (tmp_path / "config.json").unlink()
  what = "is missing"
  if described:
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel"}')
    what = "has no num_attention_heads"
  told = rf"config\.json: {what}, and the number of heads cannot .* {heads * width} wide"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


def test_a_config_without_its_class_counts(tmp_path):
  said = {k: v for k, v in wan_transformers.CONFIG.items() if k != "_class_name"}
  wan_transformers.write(tmp_path, said=said | {"eps": 1e-3})
  expected = dataclasses.replace(_SIZES, epsilon=1e-3)
  assert interop.load(tmp_path).config == expected
  interop.save(interop.load(tmp_path), tmp_path / "out")
  again = json.loads((tmp_path / "out" / "config.json").read_text())
  assert again == wan_transformers.CONFIG | {"eps": 1e-3}
  (tmp_path / "config.json").write_text(json.dumps(said | {"num_layers": 4}))
  with pytest.raises(ValueError, match=r"num_layers=4, but the tensors have 3"):
    interop.load(tmp_path)


def test_weights_are_laid_over_a_mesh(folder):
  mesh = mesh_lib.make(jax.devices(), (2, 2, 2, 1))
  alone, split = interop.load(folder), interop.load(folder, mesh=mesh)
  _assert_equal(alone.params, split.params)
  up = split.params["blocks"]["up"]["kernel"]
  assert up.sharding.shard_shape(up.shape) == (3, 21, 25)


@pytest.mark.parametrize(
  ("said", "message"),
  [
    ({"image_dim": 1280}, r"image_dim=1280, but .* None"),
    ({"qk_norm": None}, r"qk_norm=None, but .*across_heads"),
    ({"cross_attn_norm": None}, r"cross_attn_norm=None, but .* True"),
    ({"eps": None}, r"eps=None must be a number above 0\. Put"),
    ({"eps": [1e-6]}, r"eps=\[1e-06\] must be a number"),
    ({"eps": "1e-6"}, r"eps='1e-6' must be a number"),
    ({"text_len": -5}, r"text_len=-5 must be a whole number, 0 or more"),
    ({"text_len": None}, r"text_len=None must be a whole number"),
    ({"cross_attn_norm": False}, r"cross_attn_norm=False, but .* True"),
    ({"qk_norm": "rms_norm"}, r"qk_norm='rms_norm', but .*across_heads"),
    ({"num_layers": 4}, r"num_layers=4, but the tensors have 3"),
    ({"out_channels": 4}, r"out_channels=4, but the tensors have 5"),
    ({"num_attention_heads": 4}, r"4 heads do not divide a width of 42"),
    ({"num_attention_heads": None}, r"config\.json: num_attention_heads=None must be a"),
    (
      {"_class_name": "WanVACETransformer3DModel"},
      r"config\.json: is of 'WanVACETransformer3DModel', .*Others are not supported",
    ),
  ],
)
def test_other_transformers_are_refused_by_name(folder, tmp_path, said, message):
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  config = wan_transformers.CONFIG | said
  (copy / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=message):
    interop.load(copy)


def test_what_is_missing_extra_or_of_a_wrong_shape_is_listed(tmp_path):
  changes = {
    "blocks.1.attn2.to_k.bias": None,
    "blocks.0.norm2.bias": np.zeros(41, np.float32),
    "blocks.0.more": np.zeros(3, np.float32),
  }
  wan_transformers.write(tmp_path, **changes)
  with pytest.raises(ValueError) as refused:
    interop.load(tmp_path)
  for part in ("1 missing:\n    blocks.1.attn2.to_k.bias", "blocks.0.more (3,)", "(41,)"):
    assert part in str(refused.value)


@pytest.mark.parametrize("described", [True, False])
def test_more_channels_in_than_out_are_refused(described, tmp_path):
  wan_transformers.write(tmp_path, wan_transformers.CONFIG | {"in_channels": 9})
  if not described:
    (tmp_path / "config.json").unlink()
  told = r"takes 9 channels and gives 5: an image or a control lies beside the noise"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)


def test_more_channels_out_than_in_are_refused(tmp_path):
  wan_transformers.write(tmp_path, wan_transformers.CONFIG | {"out_channels": 10})
  with pytest.raises(ValueError, match=r"takes 5 .* gives 10: it predicts more than a"):
    interop.load(tmp_path)


def test_a_transformer_without_blocks_is_refused(tmp_path):
  wan_transformers.write(tmp_path, wan_transformers.CONFIG | {"num_layers": 0})
  with pytest.raises(ValueError, match=r"has no blocks, of which a transformer needs"):
    interop.load(tmp_path)


def test_an_odd_number_of_frequencies_is_refused(tmp_path):
  wan_transformers.write(tmp_path, wan_transformers.CONFIG | {"freq_dim": 15})
  with pytest.raises(ValueError, match=r"config\.json: freq_dim=15, .* must be even"):
    interop.load(tmp_path)


def test_an_image_model_is_refused(tmp_path):
  extra = {"blocks.0.attn2.add_k_proj.weight": np.zeros((42, 42), np.float32)}
  wan_transformers.write(tmp_path, **extra)
  with pytest.raises(ValueError, match="takes an image beside the text"):
    interop.load(tmp_path)


def _config(folder, **dit) -> config_lib.Config:
  section = config_lib.DiT(architecture="wan", checkpoint=str(folder), **dit)
  sample = config_lib.Sample(width=264)  # of patches of 3 columns
  return config_lib.Config(name="test", objective="diffusion", dit=section, sample=sample)


def test_its_sizes_count_instead_of_the_configs(folder):
  config = interop.with_transformer(_config(folder, remat="attention"))
  assert of_section(config.dit, _SIZES.patch_dim, 11) == _SIZES
  assert (config.dit.remat, config.dit.checkpoint) == ("attention", str(folder))
  np.testing.assert_allclose(config.dit.rope_fractions, (3 / 7, 2 / 7, 2 / 7))
  mesh = mesh_lib.make(jax.devices(), (8, 1, 1, 1))
  read = interop.transformer_weights(config, 5, 11)
  _assert_equal(read(mesh), interop.load(folder).params)


def test_its_function_counts_whatever_config_a_run_starts_from(folder, caplog):
  plain = interop.with_transformer(_config(folder))
  assert (plain.dit.rope_theta, plain.dit.rope_side) == (10_000.0, 0.0)
  assert (plain.dit.rope_seconds, plain.dit.text_length) == (0.0, 512)
  caplog.clear()
  other = {"rope_theta": 256.0, "rope_side": 16.0, "rope_seconds": 0.25}
  changed = dataclasses.replace(plain.dit, **other, text_length=600)
  assert interop.with_transformer(dataclasses.replace(plain, dit=changed)) == plain
  (said,) = caplog.messages
  for part in ("rope_theta=10000.0 (not 256.0)", "rope_seconds=0.0", "text_length=512"):
    assert part in said
  assert interop.with_transformer(plain) == plain and len(caplog.messages) == 1


@pytest.mark.parametrize("wrong", [{"prediction": "noise"}, {"process": "ddpm"}])
def test_what_it_has_not_learnt_to_predict_is_refused(folder, wrong):
  diffusion = dataclasses.replace(config_lib.Diffusion(), **wrong)
  config = dataclasses.replace(_config(folder), diffusion=diffusion)
  ((key, value),) = wrong.items()
  with pytest.raises(ValueError, match=rf"diffusion\.{key}='{value}': must be .* with"):
    config_lib.parse(config_lib.to_dict(config))


def test_what_it_does_not_fit_is_refused_before_it_is_read(folder, tmp_path):
  config = interop.with_transformer(_config(folder))
  with pytest.raises(ValueError, match=r"takes latents of 5 channels.* have 4"):
    interop.transformer_weights(config, 4, 11)
  with pytest.raises(ValueError, match=r"encoded 11 wide.* are 12 wide"):
    interop.transformer_weights(config, 5, 12)
  other = dataclasses.replace(config, dit=dataclasses.replace(config.dit, depth=4))
  with pytest.raises(ValueError, match=r"config\.dit\.depth=4, but .* has 3"):
    interop.transformer_weights(other, 5, 11)
  with pytest.raises(ValueError, match=r"config\.dit\.checkpoint=.*is not a transformer"):
    interop.with_transformer(_config(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match=r"architecture='adaln', but .* 'wan'"):
    own = dataclasses.replace(config.dit, architecture="adaln", text_length=0)
    interop.with_transformer(dataclasses.replace(config, dit=own))
