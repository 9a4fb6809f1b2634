"""Wan's transformer: a packed row is its segments one by one, each with its padding."""

import dataclasses
import functools

from flax import nnx
import jax
import numpy as np
import pytest

from configs import wan_1_3b
from tests.models.dit import wan_rows
from video_dit import config as config_lib
from video_dit.models.dit import flops
from video_dit.models.dit.build import build
from video_dit.models.dit.wan import Wan, timestep_embedding
from video_dit.models.dit.wan_config import WanConfig
from video_dit.plan import kernels

_SIZES = WanConfig(
  **{"width": 36, "depth": 2, "heads": 3, "mlp_width": 40, "channels": 3},
  **{"patch": (1, 2, 2), "text_width": 7, "frequencies": 16, "text_length": 6},
)
# Extent, caption tokens and time of each clip; one caption is empty, one is whole.
_CLIPS = (((2, 4, 2), 2, 0.25), ((1, 2, 6), 0, 0.999), ((3, 2, 2), 6, 0.1))


def _draw(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def model():
  """With random weights, those that start at zero too."""

  def make():
    section = _SIZES.section(config_lib.DiT())
    return Wan(section, _SIZES.patch_dim, _SIZES.text_width, rngs=nnx.Rngs(0))

  graph, shapes = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = _draw(rng, *leaf.shape)
    if path[-1].key == "kernel":
      return values / leaf.shape[-2] ** 0.5
    return 0.3 * values + (path[-1].key == "scale")

  return nnx.merge(graph, jax.tree.map_with_path(draw, nnx.to_pure_dict(shapes)))


def _clips():
  rng = np.random.default_rng(1)
  clips = [_draw(rng, _SIZES.channels, *extent) for extent, _, _ in _CLIPS]
  texts = [_draw(rng, count, _SIZES.text_width) for _, count, _ in _CLIPS]
  return clips, texts, np.array([[time for _, _, time in _CLIPS]], np.float32)


def _pack(model, clips, texts, seed=0):
  """All rows of these tests are of one shape: one compilation serves them."""
  return wan_rows.pack(model, clips, texts, tokens=20, text=20, seed=seed)


@functools.partial(jax.jit, static_argnames=("graph", "num_segments"))
def _both(graph, params, row, times, cotangent, num_segments):
  def predict(params, patches, times):
    given = row | {"patches": patches}
    return wan_rows.run(graph, params, given, times, num_segments=num_segments)

  out, pull = jax.vjp(predict, params, row["patches"], times)
  return out, pull(cotangent)


def _outcome(model, row, times, cotangent, num_segments=None):
  """The prediction, and its gradients to weights, patches and times."""
  graph, params = nnx.split(model)
  arguments = (nnx.to_pure_dict(params), row, times, cotangent, num_segments)
  return jax.device_get(_both(graph, *arguments))


def _assert_close(found, expected, scale=None):
  def check(a, b):
    limit = 1e-5 * (np.abs(b).max() if scale is None else scale)
    np.testing.assert_allclose(a, b, rtol=0, atol=limit)

  jax.tree.map(check, found, expected)


def _cotangent(row):
  noise = _draw(np.random.default_rng(2), *row["patches"].shape)
  return noise * (row["segments"] > 0)[..., None]


def test_packed_equals_unpacked_in_outputs_and_gradients(model):
  clips, texts, times = _clips()
  row = _pack(model, clips, texts)
  cotangent = _cotangent(row)
  out, (of_params, of_patches, of_times) = _outcome(model, row, times, cotangent)
  per_token = np.append(times[0], 0.5)[row["segments"] - 1].astype(np.float32)
  by_token = _outcome(model, row, per_token, cotangent, num_segments=len(clips))
  summed = None
  for i in range(len(clips)):
    mine = row["segments"][0] == i + 1
    alone = _pack(model, clips[i : i + 1], texts[i : i + 1])
    here = alone["segments"][0] == 1
    own = np.zeros_like(cotangent)
    own[:, here] = cotangent[:, mine]
    found, gradients = _outcome(model, alone, np.roll(times, -i), own)
    _assert_close(out[:, mine], found[:, here])
    _assert_close(by_token[0][:, mine], found[:, here])
    _assert_close(of_patches[:, mine], gradients[1][:, here])
    _assert_close(of_times[:, i], gradients[2][:, 0])
    parts = gradients[0]
    summed = parts if summed is None else jax.tree.map(np.add, summed, parts)
  _assert_close(of_params, summed)
  _assert_close(by_token[1][0], of_params)
  assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(of_params))


def test_padding_that_is_not_stored_is_padding_that_is(model):
  clips, texts, times = _clips()
  full = [np.pad(x, ((0, _SIZES.text_length - len(x)), (0, 0))) for x in texts]
  rows = [_pack(model, clips, which) for which in (texts, full)]
  assert (rows[0]["text_segments"] > 0).sum() < (rows[1]["text_segments"] > 0).sum()
  cotangent = _cotangent(rows[0])
  _assert_close(*(_outcome(model, row, times, cotangent) for row in rows))


def test_a_token_never_feels_another_segment(model):
  clips, texts, times = _clips()
  rows = [
    _pack(model, clips, texts),
    _pack(model, [clips[0], clips[1], 9 + clips[2]], texts, seed=5),
  ]
  zero = np.zeros_like(rows[0]["patches"])
  out, again = (
    wan_rows.unpack(model, _outcome(model, row, times, zero)[0], clips) for row in rows
  )
  for i in (0, 1):
    np.testing.assert_array_equal(out[i], again[i])
  assert (out[2] != again[2]).all()


def test_the_embedding_of_a_step_is_exact():
  rng = np.random.default_rng(0)
  drawn = rng.uniform(0, 1, 500).astype(np.float32)
  whole = (np.arange(1001) / 1000).astype(np.float32)
  steps = np.concatenate([drawn.astype(np.float64) * 1000, np.arange(1001)])
  frequencies = 10_000.0 ** (-np.arange(128) / 128)
  angle = steps[:, None] * frequencies[None]
  expected = np.concatenate([np.cos(angle), np.sin(angle)], -1)
  embed = jax.jit(timestep_embedding, static_argnums=1)
  found = embed(np.concatenate([drawn, whole]), 256)
  # A drawn time that lies by a whole step is taken for it: 2**-13 of a step at most.
  np.testing.assert_allclose(found[500:], expected[500:], rtol=0, atol=2e-6)
  np.testing.assert_allclose(found[:500], expected[:500], rtol=0, atol=2**-13)
  assert np.median(np.abs(found[:500] - expected[:500]).max(-1)) < 1e-6


def test_a_fresh_model_predicts_zero_and_its_head_learns():
  dit = _SIZES.section(config_lib.DiT())
  clips, texts, times = _clips()
  made = build(dit, _SIZES.patch_dim, _SIZES.text_width, rngs=nnx.Rngs(0))
  assert isinstance(made, Wan)
  row = _pack(made, clips, texts)
  out, (of_params, _, _) = _outcome(made, row, times, _cotangent(row))
  assert (out == 0).all() and (of_params["head"]["kernel"] != 0).any()


def test_a_head_is_cut_as_wan_cuts_it():
  for size, pairs in ((128, (22, 21, 21)), (24, (4, 4, 4)), (14, (3, 2, 2))):
    sizes = dataclasses.replace(_SIZES, width=2 * size, heads=2)
    shares = sizes.section(config_lib.DiT()).rope_fractions
    np.testing.assert_allclose(np.array(shares) * size / 2, pairs, rtol=1e-12)


def test_the_work_of_a_published_model_on_a_clip():
  """1.3B at 81 frames of 480p; and a caption's filling costs one key."""
  dit = config_lib.parse(wan_1_3b.get_config()).dit

  def work(text: int, length: int) -> float:
    return flops.train_flops(
      dataclasses.replace(dit, text_length=length),
      patch_dim=64,
      text_width=4096,
      tokens_S=np.array([32_760.0]),
      text_tokens_S=np.array([float(text)]),
    )

  assert round(work(511, 512) / 1e12) == 849
  one = 3 * 4 * dit.width * dit.depth * 32_760
  assert work(9, 512) - work(9, 0) == one
  caption = 3 * (2 * 4096 * 1536 + 2 * 1536**2 + 30 * 4 * 1536**2)
  assert work(10, 512) - work(9, 512) == caption + one


def test_both_attentions_have_the_scopes_that_a_plan_finds_them_by(model):
  clips, texts, times = _clips()
  row = _pack(model, clips, texts)
  graph, params = nnx.split(model)
  arguments = (nnx.to_pure_dict(params), row, times)
  names = wan_rows.run.lower(graph, *arguments).as_text(debug_info=True)
  for scope in kernels.SCOPES:
    assert f"{scope}/dot_general" in names
