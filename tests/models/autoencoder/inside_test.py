"""Clips of several sizes in one buffer come out as they do by themselves."""

import functools

from flax import nnx
import jax
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.models.autoencoder import model, published
from video_dit.models.autoencoder.cogvideox import CogVideoX, CogVideoXConfig
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.models.autoencoder.hunyuan import Hunyuan, HunyuanConfig
from video_dit.models.autoencoder.stable import Stable, StableConfig
from video_dit.models.autoencoder.wan import Wan, WanConfig

_SIZES = {"latent_channels": 3, "layers_per_block": 1, "norm_num_groups": 2}
_WAN = {"base_dim": 4, "dim_mult": (1, 1), "num_res_blocks": 1, "z_dim": 3}
_WAN |= {"temperal_downsample": (True,), "latents_mean": (0.0,) * 3}
_WAN |= {"latents_std": (1.0,) * 3}
_OURS = config_lib.Autoencoder(
  channels=3, space=4, time=2, patch=2, widths=(4, 4), blocks=1
)
_MODELS = {
  "ours": functools.partial(model.Autoencoder, _OURS),
  "wan 2.2": functools.partial(Wan, WanConfig(patch_size=2, is_residual=True, **_WAN)),
  "cogvideox": functools.partial(
    CogVideoX,
    CogVideoXConfig(block_out_channels=(4, 6), temporal_compression_ratio=2, **_SIZES),
  ),
  "hunyuan": functools.partial(
    Hunyuan,
    HunyuanConfig(block_out_channels=(4, 6, 4), spatial_compression_ratio=4, **_SIZES),
  ),
  "stable": functools.partial(Stable, StableConfig(block_out_channels=(4, 6), **_SIZES)),
}


def weights(made) -> dict:
  """Random ones for an abstract model, so that every tap of a kernel counts."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape).astype(np.float32)
    values /= np.prod(leaf.shape[:-1] or (10,), dtype=np.float32) ** 0.5
    return values + (path[-1].key == "scale")

  state = nnx.to_pure_dict(nnx.state(made, nnx.Param))
  return jax.tree_util.tree_map_with_path(draw, state)


def frozen(name: str, std: float = 1.0) -> Frozen:
  """An autoencoder with random weights; `std` is of its own latents, if it has none."""
  made = published.abstract(lambda rngs: _MODELS[name](rngs=rngs))
  statistics = getattr(made, "statistics", (np.zeros(3), np.full(3, std)))
  return Frozen(made, weights(made), statistics, "mark")


@pytest.mark.parametrize("name", _MODELS)
def test_what_lies_beyond_a_clip_changes_nothing(name):
  autoencoder = frozen(name)
  space, frames = autoencoder.space, 1 + autoencoder.time
  rng = np.random.default_rng(1)
  shape = (2, frames, 4 * space, 4 * space, 3)
  buffers_BFHWC = rng.integers(256, size=shape, dtype=np.uint8)
  sizes_B2 = np.array([(4, 3), (3, 2)]) * space
  together = autoencoder.encode_batch(buffers_BFHWC, sizes_B2)
  alone = autoencoder.encode(buffers_BFHWC[1, :, : 3 * space, : 2 * space])
  np.testing.assert_allclose(together[1, :, :3, :2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ours", "stable"])
def test_causal_clips_do_not_feel_what_follows(name):
  autoencoder = frozen(name)
  space, time = autoencoder.space, autoencoder.time
  rng = np.random.default_rng(2)
  shape = (1 + 2 * time, space, space, 3)
  clip_FHWC = rng.integers(256, size=shape, dtype=np.uint8)
  whole = autoencoder.encode(clip_FHWC)
  beginning = autoencoder.encode(clip_FHWC[: 1 + time])
  apart = np.abs(whole[: len(beginning)] - beginning).max()
  assert autoencoder.causal and apart < 1e-4
