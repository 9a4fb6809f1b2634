"""The autoencoder: any chunks are the whole, no frame sees the future.

Weights are random, so that every tap of a convolution matters: at initialisation most
are zero.
"""

import functools

from flax import nnx
import jax
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.models.autoencoder import layers, model
from video_dit.models.autoencoder.model import Autoencoder

_ARCHS = {
  "plain_patch1_time4_space4": config_lib.Autoencoder(
    channels=3, space=4, time=4, patch=1, widths=(3, 4, 5), blocks=1
  ),
  "factorized_patch2_time8_space8": config_lib.Autoencoder(
    channels=3, space=8, time=8, patch=2, widths=(3, 3, 4, 4), blocks=1, factorized=True
  ),
  "plain_patch4_time4_space8": config_lib.Autoencoder(
    channels=3, space=8, time=4, patch=4, widths=(4, 4, 4), blocks=1
  ),
  "factorized_patch1_time8_space4": config_lib.Autoencoder(
    channels=3, space=4, time=8, patch=1, widths=(3, 4, 4, 3), blocks=1, factorized=True
  ),
}
# Of the last latent's column 1, mean and log-variance; and of a pixel of the last frame.
_SAME = {
  "plain_patch1_time4_space4": ([0.3659, -0.2160], [-2.0738, -0.9586, 0.5755]),
  "factorized_patch2_time8_space8": ([-0.1834, -0.2704], [0.4422, 1.1660, -1.8696]),
  "plain_patch4_time4_space8": ([0.2767, 0.3997], [0.6501, 0.3047, 0.3978]),
  "factorized_patch1_time8_space4": ([0.1487, -0.9439], [0.3786, -0.6679, -0.4123]),
}
_BATCH, _ROWS, _COLUMNS, _AFTER = 1, 1, 2, 3  # latent rows, columns, frames after the 1st


class _Tiny:
  """An architecture with random weights, and its chunk programs."""

  def __init__(self, arch: config_lib.Autoencoder):
    self.arch = arch
    shapes = nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(shapes)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
      values = rng.normal(size=leaf.shape).astype(np.float32)
      if path[-1].key == "scale":
        return 1 + 0.3 * values
      return values / np.prod(leaf.shape[:-1] or (10,), dtype=np.float32) ** 0.5

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))

    def encode(params, x, cache):
      return nnx.merge(graph, params).encode_chunk(x, cache)

    def decode(params, z, cache):
      return nnx.merge(graph, params).decode_chunk(z, cache)

    self._encode = functools.partial(jax.jit(encode), params)
    self._decode = functools.partial(jax.jit(decode), params)
    frames, space = 1 + arch.time * _AFTER, arch.space
    shape = (_BATCH, frames, _ROWS * space, _COLUMNS * space, 3)
    self.clip = rng.uniform(-1, 1, shape).astype(np.float32)
    shape = (_BATCH, 1 + _AFTER, _ROWS, _COLUMNS, arch.channels)
    self.latent = rng.normal(size=shape).astype(np.float32)

  def encode(self, clip_BFHWC, lengths=None):
    """Means and log-variances, from chunks of these lengths or at once."""
    cache, parts = None, []
    for chunk in _cut(clip_BFHWC, lengths):
      mean, logvar, cache = self._encode(chunk, cache)
      parts.append(np.stack(jax.device_get((mean, logvar))))
    return np.concatenate(parts, axis=2)

  def decode(self, latent_BFHWC, lengths=None):
    """Pixels, from chunks of these lengths or at once."""
    cache, parts = None, []
    for chunk in _cut(latent_BFHWC, lengths):
      pixels, cache = self._decode(chunk, cache)
      parts.append(jax.device_get(pixels))
    return np.concatenate(parts, axis=1)


def _cut(x_BFHWC, lengths):
  lengths = lengths or [x_BFHWC.shape[1]]
  assert sum(lengths) == x_BFHWC.shape[1]
  return np.split(x_BFHWC, np.cumsum(lengths)[:-1], axis=1)


@pytest.fixture(scope="module", params=_ARCHS)
def tiny(request):
  return _Tiny(_ARCHS[request.param])


@pytest.fixture(scope="module")
def whole(tiny):
  """Statistics of the clip and pixels of the latent, each at once."""
  return tiny.encode(tiny.clip), tiny.decode(tiny.latent)


def _assert_close(found, expected):
  assert found.shape == expected.shape
  assert np.abs(expected).max() > 0.1  # else nothing is compared
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_same_weights_code_a_clip_as_they_did(tiny, whole):
  """Where they do not, sets and autoencoders of earlier versions no longer fit."""
  (name,) = (name for name, arch in _ARCHS.items() if arch == tiny.arch)
  found = whole[0][:, 0, -1, 0, 1, 0], whole[1][0, -1, 1, 2]
  for each, expected in zip(found, _SAME[name], strict=True):
    np.testing.assert_allclose(each, expected, rtol=0, atol=2e-4)


def test_space_is_halved_first_and_time_last():
  arch = config_lib.Autoencoder(space=8, time=2, patch=2, widths=(4, 4, 4, 4))
  assert model.strides(arch) == [(1, 2), (1, 2), (2, 1)]


def test_a_fresh_autoencoder_is_nearly_without_noise():
  arch = config_lib.Autoencoder(
    channels=3, space=2, time=1, patch=2, widths=(6,), blocks=1
  )
  clip = np.random.default_rng(0).uniform(-1, 1, (1, 2, 8, 8, 3)).astype(np.float32)
  made = jax.jit(lambda clip: Autoencoder(arch, rngs=nnx.Rngs(0)).encode(clip))
  mean, logvar = made(clip)
  assert np.std(mean) > 0.1
  np.testing.assert_allclose(logvar, -4.0, rtol=0, atol=0.5)


# In latent frames: one at a time; and the first with one more, then two.
_CHUNKS = [(1, 1, 1, 1), (2, 2)]


@pytest.mark.parametrize("chunks", _CHUNKS, ids=str)
def test_a_clip_encoded_in_chunks_is_the_whole(tiny, whole, chunks):
  time = tiny.arch.time
  lengths = [1 + time * (chunks[0] - 1), *(time * n for n in chunks[1:])]
  _assert_close(tiny.encode(tiny.clip, lengths), whole[0])
  shape = (_BATCH, 1 + _AFTER, _ROWS, _COLUMNS, tiny.arch.channels)
  assert whole[0].shape == (2, *shape)


@pytest.mark.parametrize("chunks", _CHUNKS, ids=str)
def test_a_latent_decoded_in_chunks_is_the_whole(tiny, whole, chunks):
  _assert_close(tiny.decode(tiny.latent, list(chunks)), whole[1])
  assert whole[1].shape == tiny.clip.shape


def test_an_image_and_a_shorter_clip_are_the_beginning_of_a_longer_one(tiny, whole):
  time = tiny.arch.time
  for latents in (1, 2):
    frames = 1 + time * (latents - 1)
    _assert_close(tiny.encode(tiny.clip[:, :frames]), whole[0][:, :, :latents])
    _assert_close(tiny.decode(tiny.latent[:, :latents]), whole[1][:, :frames])


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_the_future_changes_nothing_before_it(tiny, whole, latents):
  frames = 1 + tiny.arch.time * (latents - 1)
  clip, latent = tiny.clip.copy(), tiny.latent.copy()
  clip[:, frames:] *= -1
  latent[:, latents:] *= -1
  found = tiny.encode(clip)
  np.testing.assert_array_equal(found[:, :, :latents], whole[0][:, :, :latents])
  assert (found[0, :, latents:] != whole[0][0, :, latents:]).all()
  found = tiny.decode(latent)
  np.testing.assert_array_equal(found[:, :frames], whole[1][:, :frames])
  assert (found[:, frames:] != whole[1][:, frames:]).all()


def test_each_frame_of_the_past_reaches_the_next_latent(tiny, whole):
  """The first frame too: a convolution that forgot it would still be causal."""
  for frame in (0, tiny.arch.time):
    clip = tiny.clip.copy()
    clip[:, frame] *= -1
    found = tiny.encode(clip)[0]
    latent = frame // tiny.arch.time
    assert (found[:, latent : latent + 2] != whole[0][0, :, latent : latent + 2]).all()


@pytest.mark.parametrize("num_out", [4, 64])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_a_fresh_convolution_is_of_its_own_cell_and_keeps_the_variance(stride, num_out):
  found = layers.delta_orthogonal(jax.random.key(0), (3, 3, 3, 6, num_out), stride)
  found = np.asarray(found)
  taps = np.argwhere(np.abs(found).max((3, 4)) > 0)
  # The last frames, and from the middle of rows and columns on.
  assert taps.min(0).tolist() == [3 - stride[0], 1, 1]
  assert taps.max(0).tolist() == [2, stride[1], stride[2]]
  assert np.square(found).sum((0, 1, 2, 3)).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
  ("kernel", "stride"),
  [
    ((3, 3, 3), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2)),
    ((3, 3, 3), (1, 2, 2)),
    ((3, 1, 1), (2, 1, 1)),
    ((1, 3, 3), (1, 2, 2)),
    ((1, 1, 1), (1, 1, 1)),
  ],
  ids=str,
)
def test_the_convolution_of_the_cpu_is_the_3d_convolution(kernel, stride, monkeypatch):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, 4, 6, 3)).astype(np.float32)
  weights = rng.normal(size=(*kernel, 3, 5)).astype(np.float32) / 9

  def both(function):
    def run(x, weights):
      y, pull = jax.vjp(lambda *a: function(*a, stride), x, weights)
      return y, pull(jax.numpy.cos(y))

    return jax.device_get(jax.jit(run)(x, weights))

  expected = both(layers.convolve)
  jax.tree.map(_assert_equal_to_rounding, both(layers.convolve_by_frames), expected)
  monkeypatch.setattr(layers, "_MANY_CHANNELS", 1)
  jax.tree.map(_assert_equal_to_rounding, both(layers.convolve_by_frames), expected)


def _assert_equal_to_rounding(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())
