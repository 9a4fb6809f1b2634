"""The transformer: a packed row is its segments one by one, and starts at zero.

Weights are random, those that start at zero too: each input matters to the output.
"""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.models.dit.model import DiT
from video_dit.plan import kernels

_DIT = config_lib.DiT(width=32, depth=2, heads=2, mlp_ratio=2.0, remat="block")
_PATCH, _TEXT = 6, 5
# Frames, rows and columns, caption tokens and time of each segment.
_CLIPS = (((1, 2, 3), 4, 0.1), ((3, 2, 1), 1, 0.55), ((2, 2, 2), 3, 0.98))
_PADDING = 3  # tokens, and caption tokens


def _model(dit: config_lib.DiT = _DIT):
  """The model's graph and random parameters, as a pure dictionary."""

  def make():
    return DiT(dit, _PATCH, _TEXT, rngs=nnx.Rngs(0))

  graph, shapes = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    values = rng.normal(size=leaf.shape)
    if path[-1].key == "scale":
      return (1 + 0.3 * values).astype(np.float32)
    fan_in = leaf.shape[-2] if path[-1].key == "kernel" else 10
    return (values / fan_in**0.5).astype(np.float32)

  return graph, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(shapes))


@dataclasses.dataclass
class _Rows:
  """Arguments of the model; `values` are those with gradients."""

  values: dict[str, np.ndarray]  # patches, times, positions, text
  segments: np.ndarray
  text_segments: np.ndarray


def _clip(i: int) -> _Rows:
  """Clip i alone, without padding."""
  rng = np.random.default_rng(i + 1)
  grid, num_text, time = _CLIPS[i]
  positions = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1)
  positions_N3 = positions.reshape(-1, 3) * (0.7 + 0.2 * i)
  values = {
    "patches": rng.normal(size=(1, len(positions_N3), _PATCH)),
    "times": np.full((1, 1), time),
    "positions": positions_N3[None],
    "text": rng.normal(size=(1, num_text, _TEXT)),
  }
  return _Rows(
    {name: value.astype(np.float32) for name, value in values.items()},
    np.ones((1, len(positions_N3)), np.int32),
    np.ones((1, num_text), np.int32),
  )


def _packed() -> _Rows:
  """All clips in one row, and padding that is not zero."""
  clips = [_clip(i) for i in range(len(_CLIPS))]
  values = {
    name: np.concatenate([clip.values[name] for clip in clips], axis=1)
    for name in clips[0].values
  }
  rng = np.random.default_rng(9)
  for name in ("patches", "positions", "text"):
    noise = rng.normal(size=(1, _PADDING, values[name].shape[-1]))
    values[name] = np.concatenate([values[name], noise.astype(np.float32)], axis=1)

  def numbers(each):
    lengths = [getattr(clip, each).shape[1] for clip in clips]
    return np.repeat([[1, 2, 3, 0]], [*lengths, _PADDING], axis=1).astype(np.int32)

  return _Rows(values, numbers("segments"), numbers("text_segments"))


@functools.partial(jax.jit, static_argnames=("graph", "num_segments"))
def _run(graph, params, values, segments, text_segments, cotangent, num_segments=None):
  """The prediction, and its gradients to parameters and to what the model is given."""

  def predict(params, values):
    return nnx.merge(graph, params)(
      values["patches"],
      values["times"],
      segments,
      values["positions"],
      values["text"],
      text_segments,
      dtype=jnp.float32,
      num_segments=num_segments,
    )

  prediction, pull = jax.vjp(predict, params, values)
  return prediction, *pull(cotangent)


def _outcome(graph, params, rows: _Rows, cotangent, **options):
  run = _run(
    graph, params, rows.values, rows.segments, rows.text_segments, cotangent, **options
  )
  return jax.device_get(run)


def _cotangent() -> np.ndarray:
  """Of the packed row; 0 at padding."""
  segments = _packed().segments
  noise = np.random.default_rng(5).normal(size=(*segments.shape, _PATCH))
  return (noise * (segments > 0)[..., None]).astype(np.float32)


def _assert_close(found, expected):
  """To 1e-5 of the largest entry of each array."""

  def check(path, a, b):
    scale = np.abs(b).max()
    assert scale > 0, path  # else nothing is compared
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale, err_msg=str(path))

  jax.tree_util.tree_map_with_path(check, found, expected)


@pytest.fixture(scope="module")
def model():
  return _model()


@pytest.fixture(scope="module")
def outcome(model):
  """Of the packed row."""
  return _outcome(*model, _packed(), _cotangent())


def test_the_same_weights_predict_what_they_did(outcome):
  """Where they do not, checkpoints of earlier versions no longer mean the same."""
  found = outcome[0][0, ::4, 1]
  expected = [-2.0964, -2.7854, -1.4336, -1.5823, -0.9438, -1.1516]
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_packed_equals_unpacked_in_outputs_and_gradients(model, outcome):
  row, (prediction, of_params, of_values) = _packed(), outcome
  alone = []
  for i in range(len(_CLIPS)):
    mine_N = row.segments[0] == i + 1
    mine_L = row.text_segments[0] == i + 1
    cotangent = _cotangent()[:, mine_N]
    expected = _outcome(*model, _clip(i), cotangent)
    _assert_close(prediction[:, mine_N], expected[0])
    places = {"patches": mine_N, "times": [i], "positions": mine_N, "text": mine_L}
    found = {name: of_values[name][:, places[name]] for name in of_values}
    _assert_close(found, expected[2])
    alone.append(expected[1])
  _assert_close(of_params, jax.tree.map(lambda *x: sum(x), *alone))


def test_a_token_never_feels_another_segment(model):
  row = _packed()
  places = {
    "patches": row.segments,
    "times": np.array([[1, 2, 3]]),
    "positions": row.segments,
    "text": row.text_segments,
  }
  for number in range(1, len(_CLIPS) + 1):
    cotangent = _cotangent() * (row.segments == number)[..., None]
    _, _, of_values = _outcome(*model, row, cotangent)
    for name, place in places.items():
      assert (of_values[name][place != number] == 0).all(), name
      assert (of_values[name][place == number] != 0).any(-1).all(), name


def test_other_segments_may_hold_anything(model, outcome):
  row = _packed()
  inside, inside_text = row.segments == 2, row.text_segments == 2
  values = dict(row.values)
  values["patches"] = np.where(inside[..., None], values["patches"], 1e3)
  values["text"] = np.where(inside_text[..., None], values["text"], -1e3)
  values["times"] = np.array([[1.0, values["times"][0, 1], 0.0]], np.float32)
  values = {name: x.astype(np.float32) for name, x in values.items()}
  changed, _, _ = _outcome(*model, dataclasses.replace(row, values=values), _cotangent())
  np.testing.assert_array_equal(changed[inside], outcome[0][inside])
  assert (changed[~inside] != outcome[0][~inside]).any()


def test_one_time_a_token_is_one_time_a_segment_where_it_is_constant(model, outcome):
  row = _packed()
  times_RN = np.append(row.values["times"][0], 0.3)[row.segments - 1]
  per_token = dataclasses.replace(
    row, values=row.values | {"times": times_RN.astype(np.float32)}
  )
  prediction, of_params, of_values = _outcome(
    *model, per_token, _cotangent(), num_segments=len(_CLIPS)
  )
  real = row.segments > 0
  _assert_close(prediction[real], outcome[0][real])
  _assert_close(of_params, outcome[1])
  sums = [of_values["times"][row.segments == i].sum() for i in (1, 2, 3)]
  _assert_close(np.array([sums]), outcome[2]["times"])


@pytest.mark.parametrize(
  ("policy", "unroll"), [("none", 1), ("attention", 1), ("dots", 1), ("block", 2)]
)
def test_neither_recomputing_nor_unrolling_changes_a_gradient(policy, unroll, outcome):
  graph, params = _model(dataclasses.replace(_DIT, remat=policy, unroll=unroll))
  _assert_close(_outcome(graph, params, _packed(), _cotangent()), outcome)


def test_fresh_blocks_pass_the_stream_on_and_a_head_of_zeros_learns():
  @jax.jit
  def first(values, segments, text_segments):
    graph, params = nnx.split(DiT(_DIT, _PATCH, _TEXT, rngs=nnx.Rngs(0)))

    def predict(params):
      arrays = (values["patches"], values["times"], segments, values["positions"])
      return nnx.merge(graph, params)(*arrays, values["text"], text_segments)

    prediction, pull = jax.vjp(predict, params)
    are_zero = jax.tree.map(lambda x: jnp.all(x == 0), nnx.to_pure_dict(params))
    gradients = nnx.to_pure_dict(pull(jnp.ones_like(prediction))[0])
    return prediction, gradients, are_zero

  row = _packed()
  prediction, gradients, are_zero = first(row.values, row.segments, row.text_segments)
  assert prediction.dtype == jnp.float32  # though products are in bfloat16
  assert prediction.shape == row.values["patches"].shape
  assert (np.asarray(prediction) == 0).all()
  assert (np.asarray(gradients["head"]["kernel"]) != 0).any()
  leaves = jax.tree_util.tree_leaves_with_path(are_zero)
  zero = {
    "/".join(key.key for key in path[:-1])
    for path, is_zero in leaves
    if path[-1].key == "kernel" and is_zero
  }
  # All that a block adds passes a gate, which is zero, or a map that is.
  assert zero == {"blocks/modulation", "blocks/text_out", "last", "head"}


def test_both_attentions_have_the_scopes_that_a_plan_finds_them_by(model):
  rows = _packed()
  arguments = (rows.values, rows.segments, rows.text_segments, _cotangent())
  names = _run.lower(*model, *arguments).as_text(debug_info=True)
  for scope in kernels.SCOPES:
    assert f"{scope}/dot_general" in names
