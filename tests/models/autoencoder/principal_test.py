"""Latents in principal components: uncorrelated, and decoded to the same."""

from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.models.autoencoder import principal, store
from video_dit.models.autoencoder.model import Autoencoder

_ARCH = config_lib.Autoencoder(
  channels=3, space=4, time=2, patch=2, widths=(4, 5), blocks=1, factorized=True
)


def _latents(count: int = 4000) -> np.ndarray:
  """One thing in two channels of other scales, and a little of another."""
  rng = np.random.default_rng(0)
  first, second = rng.normal(size=(2, count))
  return np.stack([first, 40 * first + 2 * second + 7, second - 0.5 * first], -1)


def test_components_are_uncorrelated_normalised_and_in_order():
  x = _latents()
  turn, mean, deviation = principal.components(x.mean(0), np.cov(x.T, bias=True))
  y = (x @ turn - mean) / deviation
  np.testing.assert_allclose(y.mean(0), 0, atol=1e-9)
  expected = np.diag([1.0, 1.0, 0.0])  # two things in three channels
  assert deviation[0] > deviation[1] and deviation[2] == 1.0
  np.testing.assert_allclose(np.cov(y.T, bias=True), expected, atol=1e-6)


def test_channels_that_never_vary_keep_their_scale():
  turn, mean, deviation = principal.components(np.full(3, 2.0), np.zeros((3, 3)))
  np.testing.assert_array_equal(deviation, 1.0)
  assert np.isfinite(np.linalg.inv(turn)).all() and np.isfinite(mean).all()


def test_a_turned_autoencoder_decodes_what_it_encodes_alike(tmp_path):
  rng = np.random.default_rng(1)

  def draw(x):
    return np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32)

  model = Autoencoder(_ARCH, rngs=nnx.Rngs(0))
  params = jax.tree.map(draw, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
  clips = rng.integers(256, size=(2, 5, 8, 12, 3), dtype=np.uint8)
  x = _latents()
  turn, mean, deviation = principal.components(x.mean(0), np.cov(x.T, bias=True))
  store.export(tmp_path / "old", _ARCH, params, np.zeros(3), np.ones(3))
  store.export(tmp_path / "new", _ARCH, principal.turn(params, turn), mean, deviation)
  old, new = store.load(tmp_path / "old"), store.load(tmp_path / "new")
  before, after = old.encode_batch(clips), new.encode_batch(clips)
  scale = np.abs(before @ turn).max()
  expected = (before @ turn - mean) / deviation
  np.testing.assert_allclose(after, expected, atol=1e-5 * scale)
  # Bytes: a value on the edge between two may fall on either side.
  again, bytes_before = new.decode_batch(after), old.decode_batch(before)
  assert np.abs(again.astype(int) - bytes_before).max() <= 1
  assert (again != bytes_before).mean() < 0.01
