"""Autoencoders of published architectures: chunks, causality, and use when frozen.

Weights are random: at initialisation most taps of a convolution are zero.
"""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.models.autoencoder import blocks, published
from video_dit.models.autoencoder.cogvideox import CogVideoX, CogVideoXConfig
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.models.autoencoder.hunyuan import Hunyuan, HunyuanConfig
from video_dit.models.autoencoder.stable import Stable, StableConfig

_SIZES = {"latent_channels": 3, "layers_per_block": 1, "norm_num_groups": 2}
_COGVIDEOX = CogVideoXConfig(
  block_out_channels=(4, 6), temporal_compression_ratio=2, shift_factor=0.25, **_SIZES
)
_HUNYUAN = HunyuanConfig(
  block_out_channels=(4, 6, 4), spatial_compression_ratio=4, **_SIZES
)
_STABLE = StableConfig(block_out_channels=(4, 6), latents_mean=(0.5, -1.0, 0.0), **_SIZES)
_MODELS = {
  "cogvideox": functools.partial(CogVideoX, _COGVIDEOX),
  "hunyuan": functools.partial(Hunyuan, _HUNYUAN),
  "stable": functools.partial(Stable, _STABLE),
}


class _Tiny:
  """A model with random weights, and programs of it."""

  def __init__(self, make):
    self.model = published.abstract(lambda rngs: make(rngs=rngs))
    graph, state = nnx.split(self.model)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
      values = rng.normal(size=leaf.shape).astype(np.float32)
      values /= np.prod(leaf.shape[:-1] or (10,), dtype=np.float32) ** 0.5
      return values + (path[-1].key == "scale")

    self.params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))
    self.frozen = Frozen(self.model, self.params, self.model.statistics, "mark")

    def run(name, params, *args):
      return getattr(nnx.merge(graph, params), name)(*args)

    self._run = jax.jit(run, static_argnums=0)

  def __call__(self, name, *args):
    return jax.device_get(self._run(name, self.params, *args))


@pytest.fixture(scope="module", params=_MODELS)
def tiny(request):
  return _Tiny(_MODELS[request.param])


def _clip(tiny, frames):
  side = 2 * tiny.model.space
  shape = (1, frames, side, side + tiny.model.space, 3)
  return np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)


# Of CogVideoX and HunyuanVideo two chunks.
_FRAMES = {CogVideoX: 19, Hunyuan: 21, Stable: 3}
_LATENTS = {CogVideoX: 4, Hunyuan: 6, Stable: 3}


def test_frozen_it_gives_the_models_latents_normalised(tiny):
  mean, std = (x[None, None, None, None] for x in tiny.model.statistics)
  clip = _clip(tiny, _FRAMES[type(tiny.model)])
  expected, _ = tiny("encode", clip.astype(np.float32) / 127.5 - 1)
  latents = tiny.frozen.encode_batch(clip)
  frames = 1 + (clip.shape[1] - 1) // tiny.model.time
  assert latents.shape == (1, frames, 2, 3, tiny.model.channels)
  np.testing.assert_allclose(latents, (expected - mean) / std, rtol=0, atol=2e-5)


def test_frozen_it_decodes_what_the_model_does(tiny):
  """CogVideoX makes several frames of the first latent where their number is even."""
  mean, std = (x[None, None, None, None] for x in tiny.model.statistics)
  latents = _LATENTS[type(tiny.model)]
  shape = (1, latents, 2, 3, tiny.model.channels)
  z = np.random.default_rng(2).normal(size=shape).astype(np.float32)
  pixels = tiny.frozen.decode_batch(z)
  frames = 1 + tiny.model.time * (latents - 1)
  assert pixels.shape == _clip(tiny, frames).shape and len(np.unique(pixels)) > 50
  whole = tiny("decode", z * std + mean)
  expected = np.clip(np.rint((whole + 1) * 127.5), 0, 255)[:, -frames:]
  assert np.abs(pixels - expected).max() <= 1


def test_spans_cover_all_frames_and_stay_short(tiny):
  for frames in range(1, 100):
    for spans in (tiny.model.encode_spans(frames), tiny.model.decode_spans(frames)):
      covered = set().union(*(range(*span) for span in spans))
      assert min(covered) == 0 and len(covered) >= frames - tiny.model.time + 1
      assert max(stop - start for start, stop in spans) <= 17


def test_a_chunk_changes_nothing_before_it(tiny):
  """Frames of one chunk feel each other by the norms; those of an earlier one do not."""
  clip = _clip(tiny, _FRAMES[type(tiny.model)])
  spans = tiny.model.encode_spans(clip.shape[1])
  other = clip.copy()
  other[:, spans[-2][1] :] ^= 255
  a, b = tiny.frozen.encode_batch(clip), tiny.frozen.encode_batch(other)
  before = 1 + (spans[-1][0] - 1) // tiny.model.time
  np.testing.assert_array_equal(a[:, :before], b[:, :before])
  assert (a[:, -1] != b[:, -1]).all()


def test_a_short_clip_is_the_same_tiled_or_not():
  tiled = _Tiny(_MODELS["hunyuan"])
  whole = _Tiny(functools.partial(Hunyuan, _HUNYUAN, tiled=False))
  clip = np.random.default_rng(3).normal(size=(1, 5, 8, 8, 3)).astype(np.float32)
  for a, b in zip(tiled("encode", clip), whole("encode", clip), strict=True):
    np.testing.assert_array_equal(a, b)
  assert whole.model.encode_spans(81) == [(0, 81)]
  assert tiled.model.encode_spans(41)[:2] == [(0, 17), (12, 29)]
  assert tiled.model.encode_spans(41)[2:] == [(24, 41), (36, 41)]
  assert tiled.model.encode_spans(25) == [(0, 17), (12, 25)]  # the third adds nothing
  assert tiled.model.decode_spans(5) == [(0, 5), (3, 5)]


def test_chunks_of_cogvideox_are_its_peers():
  model = _Tiny(_MODELS["cogvideox"]).model
  assert model.encode_spans(13) == [(0, 13)]
  assert model.encode_spans(49)[:2] == [(0, 9), (9, 17)]
  assert model.encode_spans(22) == [(0, 14), (14, 22)]
  assert model.decode_spans(13)[:3] == [(0, 3), (3, 5), (5, 7)]
  assert model.decode_spans(4) == [(0, 2), (2, 4)]


def test_group_norm():
  rng = np.random.default_rng(4)
  x = (rng.normal(size=(2, 3, 4, 5, 6)) * 3 + 2).astype(np.float32)
  norm = blocks.GroupNorm(6, groups=2, eps=1e-3)
  norm.scale[...], norm.bias[...] = jnp.arange(6.0), jnp.ones(6)
  found = np.asarray(norm(x))
  for group in (slice(0, 3), slice(3, 6)):
    part = x[..., group].astype(np.float64)
    axes = (1, 2, 3, 4)
    mean, var = part.mean(axes, keepdims=True), part.var(axes, keepdims=True)
    expected = (part - mean) / np.sqrt(var + 1e-3) * np.arange(6)[group] + 1
    np.testing.assert_allclose(found[..., group], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("points", [7, 700])
def test_attention_is_causal_by_frame(points):
  """Of few queries at once, and of more than are computed at a time."""
  rng = np.random.default_rng(5)
  q, k, v = rng.normal(size=(3, 2, 3 * points, 4)).astype(np.float32)
  frame = np.arange(3 * points) // points
  scores = np.einsum("bnc,bmc->bnm", q, k) / 2
  scores[:, frame[:, None] < frame[None]] = -np.inf
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  expected = np.einsum("bnm,bmc->bnc", weights / weights.sum(-1, keepdims=True), v)
  found = blocks.attend_causally(*map(jnp.asarray, (q, k, v)), frame_size=points)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_nearest_neighbours():
  x = jnp.arange(3.0)[None, :, None, None, None]
  assert blocks.repeat(x, 2, 1, lone=True).ravel().tolist() == [0, 1, 1, 2, 2]
  assert blocks.repeat(x, 2, 1, lone=False).ravel().tolist() == [0, 0, 1, 1, 2, 2]
  assert blocks.repeat(x[:, :1], 2, 2, lone=True).shape == (1, 1, 2, 2, 1)


def test_statistics_are_those_that_transformers_were_trained_with():
  mean, std = published.statistics(2, 0.5, None, (1.0, 2.0), (3.0, 4.0))
  assert mean.tolist() == [1, 2] and std.tolist() == [6, 8]
  mean, std = published.statistics(2, 0.5, 0.25)
  assert mean.tolist() == [0.25] * 2 and std.tolist() == [2, 2]


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"latent_channels": 0}, "latent_channels is 0; only 1 or more is supported"),
    ({"latent_channels": -4}, "latent_channels is -4; something like"),
    ({"latent_channels": True}, "latent_channels is True; something like"),
    ({"scaling_factor": 0}, "scaling_factor is 0; something like"),
    ({"scaling_factor": float("nan")}, "scaling_factor is nan; something like"),
    ({"shift_factor": "a"}, "shift_factor is 'a': a number is expected"),
    ({"latents_mean": [1.0, 2.0]}, "latents_mean has 2 values for 4 channels"),
    ({"latents_mean": list("abcd")}, "latents_mean is .*: numbers are expected"),
    ({"latents_mean": 1.0}, "latents_mean is 1.0: numbers are expected"),
    ({"latents_std": [0, 1, 1, 1]}, "latents_std is .*: all must be above 0"),
    ({"latents_std": [1, 1, 1, float("inf")]}, "latents_std is .*: numbers are expected"),
  ],
  ids=str,
)
@pytest.mark.parametrize("config", [StableConfig, CogVideoXConfig])
def test_a_config_of_nonsense_is_refused(config, change, told):
  with pytest.raises(ValueError, match=f"config.json: {told}"):
    published.parse(config, {"latent_channels": 4} | change, "config.json")
