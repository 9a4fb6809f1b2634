"""Attention: equal to a softmax over each segment by itself, on one device and many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.parallel import attention
from video_dit.parallel import mesh as mesh_lib

_ROWS, _QUERIES, _KEYS, _HEADS, _SIZE = 4, 16, 7, 2, 4
# 0 is padding. Segment 3 of the first row and 2 of the second have no key of a caption.
_SEGMENTS = np.array(
  [[1] * 5 + [2] * 3 + [3] * 6 + [0] * 2, [1] * 9 + [2] * 7] * 2, np.int32
)
_TEXT_SEGMENTS = np.array([[1, 1, 1, 1, 2, 0, 0], [1, 1, 0, 0, 0, 0, 0]] * 2, np.int32)


def _arguments(own_keys: bool):
  """Queries, keys and values, their segments, and a cotangent."""
  rng = np.random.default_rng(0)
  keys = _QUERIES if own_keys else _KEYS
  shapes = [(_ROWS, n, _HEADS, _SIZE) for n in (_QUERIES, keys, keys, _QUERIES)]
  q, k, v, cotangent = (rng.normal(size=s).astype(np.float32) for s in shapes)
  segments = (_SEGMENTS, _SEGMENTS if own_keys else _TEXT_SEGMENTS)
  return (q, k, v), segments, cotangent


def _by_segment(arrays, segments, cotangent_RNAK):
  """Each segment by itself, in float64: the output, and the gradients by hand."""
  q, k, v, cotangent = (np.asarray(x, np.float64) for x in (*arrays, cotangent_RNAK))
  out, of_q, of_k, of_v = (np.zeros_like(x) for x in (q, q, k, v))
  scale = _SIZE**-0.5
  for r in range(_ROWS):
    for number in np.unique(segments[0][r][segments[0][r] > 0]):
      mine = r, np.flatnonzero(segments[0][r] == number)
      keys = r, np.flatnonzero(segments[1][r] == number)
      if not keys[1].size:
        continue
      weights = np.exp(scale * np.einsum("nak,mak->anm", q[mine], k[keys]))
      weights /= weights.sum(-1, keepdims=True)
      out[mine] = np.einsum("anm,mak->nak", weights, v[keys])
      of_weights = np.einsum("nak,mak->anm", cotangent[mine], v[keys])
      mean = (of_weights * weights).sum(-1, keepdims=True)
      of_scores = scale * weights * (of_weights - mean)
      of_q[mine] = np.einsum("anm,mak->nak", of_scores, k[keys])
      of_k[keys] = np.einsum("anm,nak->mak", of_scores, q[mine])
      of_v[keys] = np.einsum("anm,nak->mak", weights, cotangent[mine])
  return out, (of_q, of_k, of_v)


def _check(found, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, expected
  )


def _packed():
  # A function of its own each time: JAX would keep a trace with other chunks.
  def run(arrays, segments, cotangent):
    def attend(*arrays):
      return attention.packed_attention(*arrays, *segments)

    out, pull = jax.vjp(attend, *arrays)
    return out, pull(cotangent)

  return jax.jit(run)


@pytest.mark.parametrize("own_keys", [True, False], ids=["self", "text"])
def test_a_row_is_each_segment_by_itself(own_keys):
  _check(_packed()(*_arguments(own_keys)), _by_segment(*_arguments(own_keys)))


def test_a_query_that_sees_no_key_gets_zero_and_gives_no_gradient():
  out, (of_q, _, of_v) = _packed()(*_arguments(False))
  blind = np.zeros_like(_SEGMENTS, bool)
  blind[0::2, 8:] = blind[1::2, 9:] = True
  assert (np.asarray(out)[blind] == 0).all() and (np.asarray(of_q)[blind] == 0).all()
  assert (np.asarray(out)[~blind] != 0).all()
  # Keys of padding are seen by nobody, not by queries of padding either.
  assert (np.asarray(of_v)[_TEXT_SEGMENTS == 0] == 0).all()


@pytest.mark.parametrize("own_keys", [True, False], ids=["self", "text"])
@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (1, 1, 1, 8), (1, 2, 2, 2)], ids=str)
def test_over_a_mesh_it_is_the_same(shape, own_keys):
  mesh = mesh_lib.make(jax.devices(), shape)
  with jax.set_mesh(mesh):
    found = jax.device_get(_packed()(*_arguments(own_keys)))
  _check(found, _by_segment(*_arguments(own_keys)))


def test_the_output_has_the_dtype_of_the_queries():
  arrays, segments, _ = _arguments(False)
  halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
  out = jax.eval_shape(attention.packed_attention, *halves, *segments)
  assert out.dtype == jnp.bfloat16 and out.shape == arrays[0].shape
