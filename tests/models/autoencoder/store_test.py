"""The frozen autoencoder: on disk and back, and its use on bytes."""

import dataclasses
import json

from flax import nnx
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from video_dit import config as config_lib
from video_dit.models.autoencoder import store
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.parallel import mesh as mesh_lib

_ARCH = config_lib.Autoencoder(
  channels=3, space=4, time=2, patch=2, widths=(4, 5), blocks=1, factorized=True
)
_MEAN = np.array([0.5, -1.0, 0.0], np.float32)
_STD = np.array([2.0, 0.5, 1.25], np.float32)
_FRAMES, _HEIGHT, _WIDTH = 5, 8, 4


def _abstract():
  return nnx.split(nnx.eval_shape(lambda: Autoencoder(_ARCH, rngs=nnx.Rngs(0))))


def _random(seed: int = 0) -> dict:
  rng = np.random.default_rng(seed)

  def draw(leaf):
    fan_in = np.prod(leaf.shape[:-1] or (10,))
    return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

  return jax.tree.map(draw, nnx.to_pure_dict(_abstract()[1]))


@pytest.fixture
def folder(tmp_path):
  store.export(tmp_path / "autoencoder", _ARCH, _random(), _MEAN, _STD)
  return tmp_path / "autoencoder"


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run") / "autoencoder"
  store.export(folder, _ARCH, _random(), _MEAN, _STD)
  return store.load(folder)


def _clips(count: int) -> np.ndarray:
  shape = (count, _FRAMES, _HEIGHT, _WIDTH, 3)
  return np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def reference():
  """Normalised latents of five clips and their bytes again, by the model at once."""
  graph, params = _abstract()[0], _random()

  @jax.jit
  def run(params, pixels):
    model = nnx.merge(graph, params)
    mean, _ = model.encode(pixels)
    return mean, model.decode(mean)

  mean, pixels = jax.device_get(run(params, _clips(5).astype(np.float32) / 127.5 - 1))
  decoded = np.clip(np.rint((pixels + 1) * 127.5), 0, 255)
  return (mean - _MEAN[None, None, None, None]) / _STD[None, None, None, None], decoded


def test_what_is_read_is_what_was_written(folder):
  found = store.load(folder)
  assert dataclasses.replace(found.model.arch, checkpoint="") == _ARCH
  assert (found.channels, found.space, found.time) == (3, 4, 2)
  np.testing.assert_array_equal(found.mean, _MEAN)
  np.testing.assert_array_equal(found.std, _STD)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(found._params), _random())
  assert sorted(p.name for p in folder.iterdir()) == [store.DESCRIPTION, store.WEIGHTS]


def test_the_fingerprint_is_of_weights_architecture_and_statistics(folder, tmp_path):
  def mark(arch=_ARCH, params=None, mean=_MEAN, std=_STD):
    store.export(tmp_path / "other", arch, params or _random(), mean, std)
    return store.fingerprint(tmp_path / "other")

  first = store.fingerprint(folder)
  assert len(first) == 32 and store.load(folder).fingerprint == first
  assert mark() == first
  changed = _random()
  changed["encoder"]["conv_in"]["bias"][0] += 1e-3
  marks = [
    mark(params=changed),
    mark(mean=_MEAN + 1),
    mark(std=_STD * 2),
    mark(arch=dataclasses.replace(_ARCH, time=1)),
  ]
  assert len({first, *marks}) == 5
  # Where it is read from is no part of it.
  assert mark(arch=dataclasses.replace(_ARCH, checkpoint="elsewhere")) == first


@pytest.mark.parametrize("name", [store.DESCRIPTION, store.WEIGHTS])
def test_a_folder_without_one_of_its_files_is_refused_by_name(folder, name):
  (folder / name).unlink()
  for read in (store.fingerprint, store.load):
    with pytest.raises(ValueError, match=rf"{folder}.*{name} is missing.*Name the"):
      read(folder)


def test_weights_that_do_not_fit_the_description_are_refused_by_name(folder):
  whole = safetensors.load_file(folder / store.WEIGHTS)
  name = "decoder/conv_in/kernel"
  for damage in (
    {k: v for k, v in whole.items() if k != name},
    whole | {name: whole[name][..., :-1].copy()},
    whole | {"decoder/more": whole[name]},
  ):
    safetensors.save_file(damage, folder / store.WEIGHTS)
    with pytest.raises(ValueError, match=r"decoder/(conv_in/kernel|more) has shape"):
      store.load(folder)


def test_truncated_weights_are_refused_by_name(folder):
  path = folder / store.WEIGHTS
  whole = path.read_bytes()
  for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"weights.safetensors: is truncated.*export it"):
      store.load(folder)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ("{", "is not JSON"),
    ("[]", "holds a list; an object"),
    ({"channels": None}, "channels=None must be a whole number above 0"),
    ({"widths": [8, 0]}, r"widths\[1\]=0 must be a whole number"),
    ({"widths": 8}, r"widths\[0\]=0 must be"),
    ({"factorized": "no"}, "factorized='no' must be true or false"),
    ({"space": 64}, "needs at least 6 levels for space=64"),
    ({"latent_mean": [0.0]}, "latent_mean must be 3 numbers, one for each channel"),
    ({"latent_std": [1.0, 0.0, 1.0]}, "latent_std above 0"),
    ({"time": ...}, "time is missing"),
  ],
)
def test_a_broken_description_is_refused_by_name(folder, change, told):
  path = folder / store.DESCRIPTION
  if isinstance(change, str):
    path.write_text(change)
  else:
    found = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not ...}))
  with pytest.raises(ValueError, match=rf"autoencoder.json: .*{told}.*export it again"):
    store.load(folder)


def test_weights_of_another_architecture_are_refused_by_name(folder):
  path = folder / store.DESCRIPTION
  description = json.loads(path.read_text())
  path.write_text(json.dumps(description | {"widths": [4, 6]}))
  with pytest.raises(ValueError, match=r"decoder/conv_in.*damaged: export it again"):
    store.load(folder)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_batch_of_any_size_is_encoded_as_the_model_does(frozen, reference, count):
  latents = frozen.encode_batch(_clips(5)[:count])
  assert latents.shape == (count, 3, 2, 1, 3) and latents.dtype == np.float32
  np.testing.assert_allclose(latents, reference[0][:count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_batch_of_any_size_is_decoded_as_the_model_does(frozen, reference, count):
  pixels = frozen.decode_batch(reference[0][:count])
  assert pixels.shape == (count, _FRAMES, _HEIGHT, _WIDTH, 3) and pixels.dtype == np.uint8
  assert len(np.unique(pixels)) > 50
  # A value between two bytes may be rounded to either.
  assert np.abs(pixels - reference[1][:count]).max() <= 1


def test_one_clip_is_a_batch_of_one_and_an_image_its_first_frame(frozen, reference):
  clip = _clips(5)[0]
  np.testing.assert_allclose(frozen.encode(clip), reference[0][0], rtol=0, atol=1e-5)
  image = frozen.encode(clip[:1])
  np.testing.assert_allclose(image, reference[0][0, :1], rtol=0, atol=1e-5)
  assert frozen.decode(image).shape == (1, _HEIGHT, _WIDTH, 3)


def test_clips_are_split_over_the_devices_of_a_mesh(folder, reference):
  split = store.load(folder, mesh=mesh_lib.make(jax.devices(), (2, 2, 2, 1)))
  latents = split.encode_batch(_clips(5))
  np.testing.assert_allclose(latents, reference[0], rtol=0, atol=1e-5)


def test_each_device_has_a_part_of_its_own_and_no_weight_twice(folder, reference):
  assert len(store.load(folder).parts()) == 1
  mesh = mesh_lib.make(jax.devices()[:3], (3, 1, 1, 1))
  whole = store.load(folder, mesh=mesh)
  parts = whole.parts()
  held = {
    shard.data.unsafe_buffer_pointer()
    for leaf in jax.tree.leaves(whole._params)
    for shard in leaf.addressable_shards
  }
  for part, device in zip(parts, mesh.devices.flat, strict=True):
    for leaf in jax.tree.leaves((part._params, part._statistics)):
      assert leaf.devices() == {device}
    for leaf in jax.tree.leaves(part._params):
      assert leaf.unsafe_buffer_pointer() in held
  latents = parts[2].encode_batch(_clips(5))
  np.testing.assert_allclose(latents, reference[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 4), (5, 6, 4), (5, 8, 3)])
def test_a_clip_off_the_grid_is_refused_by_name(frozen, shape):
  frames, height, width = shape
  with pytest.raises(ValueError, match=f"{frames} frames of {height}x{width}.* 1 \\+ a"):
    frozen.encode(np.zeros((*shape, 3), np.uint8))


def test_latents_of_other_channels_are_refused_by_name(frozen):
  with pytest.raises(ValueError, match="4 channels: this autoencoder's have 3"):
    frozen.decode(np.zeros((1, 2, 1, 4), np.float32))
