"""Our Wan autoencoders give what diffusers and Wan's own code give.

Against stored outputs of both, and against diffusers where it is installed.
"""

import functools
import json

from flax import nnx
import jax
import numpy as np
import pytest

from video_dit import interop


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, params, x_BFHWC):
  return nnx.merge(graph, params).encode(x_BFHWC)


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, params, z_BFHWC):
  return nnx.merge(graph, params).decode(z_BFHWC)


class _Ours:
  """A checkpoint of ours on the peers' `(B, C, F, H, W)`."""

  def __init__(self, path):
    self.loaded = interop.load(path)
    self._split = nnx.split(self.loaded.model)
    mean, std = self.loaded.model.statistics
    self._mean, self._std = (x[None, :, None, None, None] for x in (mean, std))

  def encode(self, video_BCFHW):
    with jax.default_matmul_precision("highest"):
      both = _encode(*self._split, np.moveaxis(video_BCFHW, 1, -1))
    return [np.moveaxis(np.asarray(x), -1, 1) for x in both]

  def decode(self, z_BCFHW):
    with jax.default_matmul_precision("highest"):
      pixels = _decode(*self._split, np.moveaxis(z_BCFHW, 1, -1))
    return np.moveaxis(np.asarray(pixels), -1, 1)

  def normalise(self, z_BCFHW):
    return (z_BCFHW - self._mean) / self._std

  def denormalise(self, z_BCFHW):
    return z_BCFHW * self._std + self._mean


def _assert_at_the_noise_floor(folder, name, found):
  """Compares with the peer in single and double precision, as `compare.py` there does."""
  noise = json.loads((folder / "meta.json").read_text())["noise"][name]
  for file, key in (("outputs", "outputs"), ("outputs_ref64", "ref64")):
    expected = np.load(folder / f"{file}.npz")[name]
    limit = noise[f"suggest_atol_vs_{key}"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


_LENGTHS = {"wan21_vae": (1, 5, 9), "wan22_vae": (1, 5)}


@pytest.mark.parametrize("case", _LENGTHS)
def test_diffusers(shared, case):
  folder = shared / "parity" / case
  ours, inputs = _Ours(folder), np.load(folder / "inputs.npz")
  assert (ours.loaded.kind, ours.loaded.naming) == ("wan_autoencoder", "diffusers")
  for frames in _LENGTHS[case]:
    check = functools.partial(_assert_at_the_noise_floor, folder)
    mean, logvar = ours.encode(inputs[f"video_T{frames}"])
    check(f"mean_T{frames}", mean)
    check(f"logvar_T{frames}", logvar)
    check(f"latent_norm_T{frames}", ours.normalise(mean))
    check(f"dec_T{frames}", ours.decode(inputs[f"z_T{frames}"]))


def test_wans_own_file(shared):
  folder = shared / "parity" / "wan21_vae_native"
  ours = _Ours(folder / "Wan2.1_VAE.pth")
  assert ours.loaded.naming == "native"
  inputs = np.load(shared / "parity" / "wan21_vae" / "inputs.npz")
  for frames in (1, 5, 9):
    check = functools.partial(_assert_at_the_noise_floor, folder)
    mean, _ = ours.encode(inputs[f"video_T{frames}"])
    check(f"encode_normed_T{frames}", ours.normalise(mean))
    pixels = ours.decode(ours.denormalise(inputs[f"z_T{frames}"]))
    check(f"decode_normed_T{frames}", pixels)


_LIVE = {
  "uneven": {
    "base_dim": 6,
    "z_dim": 5,
    "dim_mult": [1, 2, 3],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
  },
  "residual": {
    "base_dim": 3,
    "decoder_base_dim": 4,
    "z_dim": 7,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, False, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
  },
}


@pytest.fixture(scope="module", params=_LIVE)
def live(request, tmp_path_factory):
  """An autoencoder of diffusers with random weights, and ours of its files."""
  torch = pytest.importorskip("torch")
  diffusers = pytest.importorskip("diffusers")
  torch.set_num_threads(1)
  torch.manual_seed(7)
  sizes = _LIVE[request.param]
  rng = np.random.default_rng(7)
  mean, std = rng.normal(size=sizes["z_dim"]), rng.uniform(0.5, 2, sizes["z_dim"])
  theirs = diffusers.AutoencoderKLWan(
    **sizes, latents_mean=mean.tolist(), latents_std=std.tolist()
  ).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.copy_(parameter + 0.05 * torch.randn_like(parameter))
  folder = tmp_path_factory.mktemp("live")
  theirs.save_pretrained(folder)
  return torch, theirs, folder, _Ours(folder)


@pytest.mark.parametrize("frames", [1, 7, 13])
def test_diffusers_live(live, frames):
  torch, theirs, _, ours = live
  rng = np.random.default_rng(frames)
  space = ours.loaded.model.space
  shape = (2, 3, frames, 2 * space, 3 * space)
  video = rng.uniform(-1, 1, shape).astype(np.float32)
  with torch.no_grad():
    posterior = theirs.encode(torch.from_numpy(video)).latent_dist
    mean, logvar = posterior.mean.numpy(), posterior.logvar.numpy()
    z = mean + rng.normal(size=mean.shape).astype(np.float32)
    pixels = theirs.decode(torch.from_numpy(z)).sample.numpy()
  assert mean.std() > 0.05 and pixels.std() > 0.05  # else nothing is compared
  found = [*ours.encode(video), ours.decode(z)]
  for a, b, limit in zip(found, (mean, logvar, pixels), (1e-5, 1e-5, 5e-5), strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=limit)


def test_diffusers_reads_what_we_write(live, tmp_path):
  torch, theirs, _, ours = live
  interop.save(ours.loaded, tmp_path)
  again = type(theirs).from_pretrained(tmp_path)
  state = again.state_dict()
  for name, tensor in theirs.state_dict().items():
    assert torch.equal(tensor, state[name]), name
  for key, value in theirs.config.items():
    if not key.startswith("_"):
      assert again.config[key] == value, key
