"""Our autoencoders of CogVideoX, HunyuanVideo and Stable Diffusion equal diffusers'.

Against stored outputs, and against diffusers where it is installed, with other weights,
sizes and lengths.
"""

import functools
import json

from flax import nnx
import jax
import numpy as np
import pytest

from video_dit import interop
from video_dit.models.autoencoder import published


@functools.partial(jax.jit, static_argnums=0)
def _encode(graph, params, x_BFHWC, cache):
  return nnx.merge(graph, params).encode_chunk(x_BFHWC, cache)


@functools.partial(jax.jit, static_argnums=0)
def _decode(graph, params, z_BFHWC, cache):
  return nnx.merge(graph, params).decode_chunk(z_BFHWC, cache)


class _Ours:
  """A checkpoint of ours on the peers' `(B, C, F, H, W)`, or `(B, C, H, W)`."""

  def __init__(self, path):
    self.loaded = interop.load(path)
    self._split = nnx.split(self.loaded.model)

  def encode(self, video):
    x_BFHWC = _channels_last(video)
    spans = self.loaded.model.encode_spans(x_BFHWC.shape[1])
    return self._run(_encode, x_BFHWC, spans, video.ndim)

  def decode(self, z):
    z_BFHWC = _channels_last(z)
    spans = self.loaded.model.decode_spans(z_BFHWC.shape[1])
    return self._run(_decode, z_BFHWC, spans, z.ndim)[0]

  def _run(self, program, x_BFHWC, spans, axes):
    def step(x, cache):
      return program(*self._split, x, cache)

    with jax.default_matmul_precision("highest"):
      found = published.run(step, x_BFHWC, spans)
    found = [np.moveaxis(np.asarray(x), -1, 1) for x in found]
    return found if axes == 5 else [x[:, :, 0] for x in found]


def _channels_last(x):
  """An image is a clip of one frame."""
  return np.moveaxis(x if x.ndim == 5 else x[:, :, None], 1, -1)


_CASES = {
  "cogvideox_vae": ("cogvideox_autoencoder", ("T1", "T9")),
  "hunyuan_vae": ("hunyuan_autoencoder", ("T1", "T5")),
  "sd_vae": ("sd_autoencoder", ("A",)),
  "sd_vae/deprecated_names": ("sd_autoencoder", ("A",)),
}


@pytest.mark.parametrize("case", _CASES)
def test_stored_outputs(shared, case):
  kind, inputs_of = _CASES[case]
  folder = shared / "parity" / case
  ours = _Ours(folder)
  assert ours.loaded.kind == kind
  if not (folder / "inputs.npz").exists():
    folder = folder.parent
  inputs = np.load(folder / "inputs.npz")
  for suffix in inputs_of:
    mean, logvar = ours.encode(inputs[f"video_{suffix}"])
    found = {"mean": mean, "logvar": logvar, "dec": ours.decode(inputs[f"z_{suffix}"])}
    for name, values in found.items():
      _assert_at_the_noise_floor(folder, f"{name}_{suffix}", values)


def _assert_at_the_noise_floor(folder, name, found):
  """Compares with the peer in single and double precision, as `compare.py` there does."""
  noise = json.loads((folder / "meta.json").read_text())["noise"][name]
  for file, key in (("outputs", "outputs"), ("outputs_ref64", "ref64")):
    expected = np.load(folder / f"{file}.npz")[name]
    limit = noise[f"suggest_atol_vs_{key}"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


# Class, arguments, and the lengths of clips and of latents that differ in their chunks.
_PEERS = {
  "cogvideox": (
    "AutoencoderKLCogVideoX",
    {
      "block_out_channels": (6, 9, 12),
      "down_block_types": ("CogVideoXDownBlock3D",) * 3,
      "up_block_types": ("CogVideoXUpBlock3D",) * 3,
      "latent_channels": 5,
      "layers_per_block": 1,
      "norm_num_groups": 3,
      "norm_eps": 1e-4,
    },
    (6, 17),
    (2, 5),
  ),
  "hunyuan": (
    "AutoencoderKLHunyuanVideo",
    {
      "block_out_channels": (4, 8, 6, 8),
      "latent_channels": 5,
      "layers_per_block": 1,
      "norm_num_groups": 2,
    },
    (4, 21),
    (5,),
  ),
  "stable": (
    "AutoencoderKL",
    {
      "block_out_channels": (6, 9, 12),
      "down_block_types": ("DownEncoderBlock2D",) * 3,
      "up_block_types": ("UpDecoderBlock2D",) * 3,
      "latent_channels": 7,
      "layers_per_block": 2,
      "norm_num_groups": 3,
      "use_quant_conv": False,
      "use_post_quant_conv": False,
      "mid_block_add_attention": False,
    },
    (None,),
    (None,),
  ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", _PEERS)
def test_installed_diffusers(name, tmp_path):
  diffusers, torch = map(pytest.importorskip, ("diffusers", "torch"))
  cls, sizes, lengths, latent_lengths = _PEERS[name]
  torch.set_num_threads(1)
  torch.manual_seed(7)
  peer = getattr(diffusers, cls)(**sizes).eval()
  with torch.no_grad():
    for parameter in peer.parameters():
      fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
      parameter += torch.randn_like(parameter) / fan_in**0.5
  peer.save_pretrained(tmp_path)
  ours = _Ours(tmp_path)
  rng = np.random.default_rng(0)
  space, channels = ours.loaded.model.space, ours.loaded.model.channels
  for frames in lengths:
    shape = () if frames is None else (frames,)
    video = rng.normal(size=(2, 3, *shape, 2 * space, 3 * space)).astype(np.float32)
    with torch.no_grad():
      posterior = peer.encode(torch.from_numpy(video)).latent_dist
    found = ours.encode(video)
    for ours_, theirs in zip(found, (posterior.mean, posterior.logvar), strict=True):
      _assert_near(ours_, theirs.numpy(), f"encode {frames}")
  for frames in latent_lengths:
    shape = () if frames is None else (frames,)
    z = rng.normal(size=(1, channels, *shape, 2, 3)).astype(np.float32)
    with torch.no_grad():
      pixels = peer.decode(torch.from_numpy(z)).sample
    _assert_near(ours.decode(z), pixels.numpy(), f"decode {frames}")


def _assert_near(found, expected, message):
  assert found.shape == expected.shape
  limit = 3e-5 * max(1.0, np.abs(expected).max())
  np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=message)
