"""Wan's autoencoders: any chunks are the whole, no frame sees the future."""

import functools
import itertools

from flax import nnx
import jax
import numpy as np
import pytest

from video_dit.models.autoencoder import published
from video_dit.models.autoencoder.wan import Wan, WanConfig

_SIZES = {
  "z_dim": 2,
  "dim_mult": (1, 2, 2),
  "temperal_downsample": (False, True),
  "num_res_blocks": 1,
  "latents_mean": (0.5, -0.5),
  "latents_std": (2.0, 0.5),
}
_ARCHS = {
  "as_2.1": WanConfig(base_dim=2, attn_scales=(0.5,), **_SIZES),
  "as_2.2": WanConfig(
    base_dim=2, decoder_base_dim=4, patch_size=2, is_residual=True, **_SIZES
  ),
}
_AFTER = 3  # latent frames after the first


class _Tiny:
  """An architecture with random weights, and its chunk programs."""

  def __init__(self, arch: WanConfig):
    self.model = nnx.eval_shape(lambda: Wan(arch, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(self.model)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
      values = rng.normal(size=leaf.shape).astype(np.float32)
      if path[-1].key == "scale":
        return 1 + 0.3 * values
      # Pixels are clipped: most must stay inside.
      return 0.5 * values / np.prod(leaf.shape[:-1] or (25,), dtype=np.float32) ** 0.5

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))

    def encode(params, x, cache):
      return nnx.merge(graph, params).encode_chunk(x, cache)

    def decode(params, z, cache):
      return nnx.merge(graph, params).decode_chunk(z, cache)

    self._encode = functools.partial(jax.jit(encode), params)
    self._decode = functools.partial(jax.jit(decode), params)
    frames, space = 1 + self.model.time * _AFTER, self.model.space
    shape = (1, frames, space, 2 * space, 3)
    self.clip = rng.uniform(-1, 1, shape).astype(np.float32)
    self.latent = 0.3 * rng.normal(size=(1, 1 + _AFTER, 1, 2, 2)).astype(np.float32)

  def encode(self, clip, spans):
    """Means and log-variances, of chunks."""
    cache, parts = None, []
    for start, stop in spans:
      mean, logvar, cache = self._encode(clip[:, start:stop], cache)
      parts.append(np.stack(jax.device_get((mean, logvar))))
    return np.concatenate(parts, axis=2)

  def decode(self, latent, spans):
    """Pixels, of chunks."""
    cache, parts = None, []
    for start, stop in spans:
      pixels, cache = self._decode(latent[:, start:stop], cache)
      parts.append(jax.device_get(pixels))
    return np.concatenate(parts, axis=1)

  def encode_streamed(self, clip):
    """As a frozen autoencoder does it."""
    return self.encode(clip, self.model.encode_spans(clip.shape[1]))

  def decode_streamed(self, latent):
    """As a frozen autoencoder does it."""
    return self.decode(latent, self.model.decode_spans(latent.shape[1]))


@pytest.fixture(scope="module", params=_ARCHS)
def tiny(request):
  return _Tiny(_ARCHS[request.param])


@pytest.fixture(scope="module")
def streamed(tiny):
  """Statistics of the clip and pixels of the latent, streamed."""
  return tiny.encode_streamed(tiny.clip), tiny.decode_streamed(tiny.latent)


def test_what_is_streamed_is_the_whole(tiny, streamed):
  encoded = tiny.encode(tiny.clip, [(0, tiny.clip.shape[1])])
  decoded = tiny.decode(tiny.latent, [(0, 1 + _AFTER)])
  assert encoded.shape == (2, 1, 1 + _AFTER, 1, 2, 2)
  assert decoded.shape == tiny.clip.shape
  for found, expected in zip(streamed, (encoded, decoded), strict=True):
    assert np.abs(expected).max() > 0.1  # else nothing is compared
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_spans_end_where_no_whole_latent_frame_is_left(tiny):
  time = tiny.model.time
  for frames in range(1, 18):
    spans = tiny.model.encode_spans(frames)
    assert spans[0] == (0, 1)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert frames - time < spans[-1][1] <= frames
    assert len(spans) == 1 + (frames - 1) // time


def test_the_future_changes_nothing_before_it(tiny, streamed):
  for latents in (1, 2, 3):
    frames = 1 + tiny.model.time * (latents - 1)
    clip, latent = tiny.clip.copy(), tiny.latent.copy()
    clip[:, frames:] *= -1
    latent[:, latents:] *= -1
    found = tiny.encode_streamed(clip)
    np.testing.assert_array_equal(found[:, :, :latents], streamed[0][:, :, :latents])
    assert (found[0, :, latents:] != streamed[0][0, :, latents:]).all()
    found = tiny.decode_streamed(latent)
    np.testing.assert_array_equal(found[:, :frames], streamed[1][:, :frames])
    assert (found[:, frames:] != streamed[1][:, frames:]).mean() > 0.9  # some is clipped


def test_each_frame_of_the_past_reaches_the_next_latent(tiny, streamed):
  for frame in (0, tiny.model.time):
    clip = tiny.clip.copy()
    clip[:, frame] *= -1
    found = tiny.encode_streamed(clip)[0]
    latent = frame // tiny.model.time
    later = slice(latent, latent + 2)
    assert (found[:, later] != streamed[0][0, :, later]).all()


def test_sizes_are_told(tiny):
  model = tiny.model
  patch = model.arch.patch_size
  assert (model.channels, model.space, model.time) == (2, 4 * patch, 2)
  np.testing.assert_array_equal(model.statistics, [[0.5, -0.5], [2.0, 0.5]])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"temperal_downsample": (True,)}, "temperal_downsample has 1 entries, dim_mult 3"),
    ({"decoder_base_dim": 0}, "decoder_base_dim is 0: a whole number above 0"),
    ({"in_channels": 5}, "in_channels is 5; pixels have 3 channels"),
    (
      {"is_residual": True, "dim_mult": (1, 2, 4)},
      "level 2 makes 4 of 2 channels over 1",
    ),
    ({"latents_std": (0.0, 1.0)}, "all must be above 0"),
    ({"latents_std": (1.0,)}, "latents_std has 1 values for 2 channels"),
  ],
)
def test_sizes_that_contradict_each_other_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    WanConfig(**_SIZES | change)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"z_dim": 0}, "z_dim is 0; only 1 or more is supported"),
    ({"dim_mult": [1, 2, "4", 4]}, "dim_mult is .*; something like"),
    ({"latents_mean": list("ab")}, "latents_mean is .*; something like"),
    ({"latents_mean": [0.0] * 3}, "latents_mean has 3 values for 2 channels"),
    ({"latents_std": [0.0, -1.0]}, "latents_std is .*: all must be above 0"),
  ],
)
def test_a_config_of_nonsense_is_refused(change, message):
  fine = {"z_dim": 2, "latents_mean": [0.0] * 2, "latents_std": [1.0] * 2}
  with pytest.raises(ValueError, match=f"config.json: {message}"):
    published.parse(WanConfig, fine | change, "config.json")
