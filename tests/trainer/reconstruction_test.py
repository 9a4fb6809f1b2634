"""The autoencoder's objective: its terms by hand, and statistics for the export."""

import dataclasses
import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.data.batch import Windows
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.train import statistics
from video_dit.trainer import reconstruction

_CONFIG = config_lib.Config(
  name="test",
  objective="reconstruction",
  train=config_lib.Train(compute_dtype="float32"),
)


class _Fake(nnx.Module):
  """Latents that are the pixels, of a `variance`, darker by `shift` when decoded."""

  def __init__(self, shift: float = 0.0, variance: float = 1.0):
    self.scale = nnx.Param(jnp.ones(()))
    self.shift, self.variance = shift, variance

  def encode(self, x, *, remat=False):
    return x * self.scale[...], jnp.full_like(x, math.log(self.variance))

  def decode(self, z, *, remat=False):
    return z - self.shift


def _windows(num: int = 3) -> Windows:
  rng = np.random.default_rng(0)
  return Windows(
    clips=rng.integers(0, 256, (num, 3, 4, 4, 3), np.uint8),
    keys=rng.integers(2**32, size=(num, 2), dtype=np.uint32),
  )


@functools.partial(jax.jit, static_argnums=(4, 5))
def _jitted(shift, windows, seed, step, config, variance):
  return reconstruction.loss(_Fake(shift, variance), windows, seed, step, config)


def _loss(
  shift: float,
  step: int = 0,
  windows: Windows | None = None,
  variance: float = 1.0,
  **terms,
):
  """The loss and the means of its terms, in a run of 10 steps."""
  config = dataclasses.replace(
    _CONFIG,
    reconstruction=config_lib.Reconstruction(**terms),
    train=dataclasses.replace(_CONFIG.train, steps=10),
  )
  windows = windows or _windows()
  sums = _jitted(shift, windows, jnp.int32(0), jnp.int32(step), config, variance)
  means = {name: float(t / w) for name, (t, w) in sums.means.items()}
  return float(sums.loss / sums.weight), means


def test_a_uniform_error_has_no_gradient_term():
  loss, means = _loss(0.5, sample=False, l1=2.0, l2=3.0, gradient=7.0, kl=0.0)
  assert loss == pytest.approx(2 * 0.5 + 3 * 0.25, rel=1e-5)
  assert means["gradient"] == pytest.approx(0.0, abs=1e-5)


def test_a_perfect_copy_has_psnr_100_and_no_loss():
  loss, means = _loss(0.0, sample=False, kl=0.0)
  assert loss == pytest.approx(0, abs=1e-6) and means["psnr"] == pytest.approx(100)


def test_psnr_is_that_of_bytes():
  original = np.full((1, 1, 2, 2, 3), 100, np.uint8)
  decoded = jnp.asarray(original, jnp.float32) / 127.5 - 1 + 10 / 127.5
  pixels = jnp.asarray(original, jnp.float32) / 127.5 - 1
  found = reconstruction.measure(decoded, pixels)["psnr"]
  assert float(found[0]) == pytest.approx(20 * np.log10(255 / 10), rel=1e-5)


def test_a_step_edge_is_seen_by_the_gradient_term_in_every_direction():
  pixels = jnp.zeros((1, 3, 4, 5, 3))
  for axis, extent in ((1, 3), (2, 4), (3, 5)):
    index = [slice(None)] * 5
    index[axis] = slice(1, None)
    edge = pixels.at[tuple(index)].set(0.5)
    found = reconstruction.measure(edge, pixels)["gradient"]
    assert float(found[0]) == pytest.approx(0.5 / (extent - 1), rel=1e-5)


def test_divergence_is_summed_over_the_latent_per_pixel():
  windows = _windows()
  x = windows.clips / 127.5 - 1.0
  terms = {"sample": False, "l1": 0.0, "gradient": 0.0, "kl": 2.0}
  for variance in (1.0, 4.0):
    each = 0.5 * (np.square(x) + variance - 1 - np.log(variance))
    expected = each.sum() / (3 * 3 * 4 * 4)
    loss, means = _loss(0.0, windows=windows, variance=variance, **terms)
    assert means["kl"] == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(2 * expected, rel=1e-5)


_SQUARES = {"l1": 0.0, "l2": 1.0, "kl": 0.0, "gradient": 0.0}  # the error's alone


def test_latents_are_drawn_with_the_deviation_of_their_variance():
  windows = _windows(8)
  found, _ = _loss(0.0, sample=True, variance=4.0, windows=windows, **_SQUARES)
  assert found == pytest.approx(4.0, rel=0.1)


def test_latents_are_disturbed_from_their_step_on_and_apart_from_what_is_drawn():
  terms = _SQUARES | {"noise": 1.0, "noise_from": 0.5}
  loss, _ = _loss(0.0, 4, sample=False, **terms)
  assert loss == pytest.approx(0, abs=1e-6)
  assert _loss(0.0, 5, sample=False, **terms)[0] > 0.01
  windows = _windows(64)
  found, _ = _loss(0.0, 5, sample=True, windows=windows, **terms)
  # Of independent draws the variances add up; the mean of a strength's square is 1 / 3.
  deviation = np.std(windows.clips / 127.5 - 1.0)
  assert found == pytest.approx(1 + deviation**2 / 3, rel=0.08)


def test_noise_belongs_to_the_step_and_the_clip():
  terms = {"sample": True, "l1": 1.0, "kl": 0.0, "gradient": 0.0}
  first, again, later = (_loss(0.0, step, **terms)[0] for step in (0, 0, 1))
  # The mean of |unit normal| is sqrt(2 / pi).
  assert first == again != later
  assert first == pytest.approx(np.sqrt(2 / np.pi), rel=0.1)
  windows = _windows()
  backwards = Windows(clips=windows.clips[::-1], keys=windows.keys[::-1])
  assert _loss(0.0, windows=backwards, **terms)[0] == pytest.approx(first, rel=1e-6)


def test_latents_are_disturbed_in_units_of_their_deviation():
  terms = {"sample": False, "l1": 1.0, "kl": 0.0, "gradient": 0.0, "noise_from": 0.0}
  windows = _windows()
  half, whole = (_loss(0.0, noise=noise, **terms)[0] for noise in (0.5, 1.0))
  assert whole == pytest.approx(2 * half, rel=1e-4)
  deviation = np.std(windows.clips / 127.5 - 1.0, axis=(0, 1, 2, 3)).mean()
  # The mean of |unit normal| is sqrt(2 / pi); strengths lie between 0 and 1.
  assert 0 < whole < 1.1 * np.sqrt(2 / np.pi) * deviation
  pale = dataclasses.replace(windows, clips=windows.clips // 4)
  loss, _ = _loss(0.0, noise=1.0, windows=pale, **terms)
  assert loss == pytest.approx(whole / 4, rel=0.02)


def test_a_plain_clip_is_disturbed_as_much_as_others_are():
  windows = _windows(8)
  plain = np.broadcast_to(windows.clips[:, :1, :1, :1], windows.clips.shape)
  terms = {"sample": False, "l1": 1.0, "kl": 0.0, "gradient": 0.0, "noise_from": 0.0}
  loss, _ = _loss(
    0.0, noise=1.0, windows=dataclasses.replace(windows, clips=plain), **terms
  )
  other, _ = _loss(0.0, noise=1.0, windows=windows, **terms)
  assert loss > other / 2


@pytest.mark.parametrize("step", [2, 3])
def test_the_encoder_rests_while_the_decoder_learns_to_mend(step):
  terms = config_lib.Reconstruction(sample=False, kl=1.0, noise=0.5, noise_from=0.5)
  train = dataclasses.replace(_CONFIG.train, steps=6)
  config = dataclasses.replace(_CONFIG, reconstruction=terms, train=train)
  graph, params = nnx.split(_Fake(0.5), nnx.Param)

  def total(params):
    model = nnx.merge(graph, params)
    sums = reconstruction.loss(model, _windows(), jnp.int32(0), jnp.int32(step), config)
    return sums.loss

  (gradient,) = jax.tree.leaves(jax.grad(total)(params))
  assert bool(gradient == 0) == (step >= 3)


def test_statistics_are_those_of_all_latents():
  mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
  batches = [_windows(), dataclasses.replace(_windows(), clips=_windows().clips // 2)]
  params = {"scale": jnp.float32(3.0)}
  mean, std = statistics.measure(_CONFIG, lambda rngs: _Fake(), mesh, params, batches)
  x = np.concatenate([3 * (b.clips / 127.5 - 1.0) for b in batches])
  np.testing.assert_allclose(mean, x.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(std, x.std((0, 1, 2, 3)), rtol=1e-4)


def test_rematerialised_blocks_change_no_gradient_and_keep_less():
  arch = config_lib.Autoencoder(channels=3, space=2, time=2, widths=(4, 6), blocks=2)
  config = dataclasses.replace(_CONFIG, autoencoder=arch)
  graph, shapes = nnx.split(nnx.eval_shape(lambda: Autoencoder(arch, rngs=nnx.Rngs(0))))
  rng = np.random.default_rng(0)

  def draw(leaf):
    fan_in = np.prod(leaf.shape[:-1] or (10,), dtype=np.float32)
    return (rng.normal(size=leaf.shape) / fan_in**0.5).astype(np.float32)

  params = jax.tree.map(draw, nnx.to_pure_dict(shapes))

  def total(params, remat: bool):
    terms = config_lib.Reconstruction(remat=remat)
    own = dataclasses.replace(config, reconstruction=terms)
    model = nnx.merge(graph, params)
    return reconstruction.loss(model, _windows(), jnp.int32(0), jnp.int32(0), own).loss

  def kept(remat: bool) -> int:
    """Numbers that the backward pass is given."""
    pull = jax.eval_shape(lambda p: jax.vjp(lambda p: total(p, remat), p)[1], params)
    return sum(x.size for x in jax.tree.leaves(pull))

  gradient = jax.jit(jax.grad(total), static_argnums=1)
  again, plain = gradient(params, True), gradient(params, False)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), again, plain
  )
  assert kept(True) < 0.5 * kept(False)
