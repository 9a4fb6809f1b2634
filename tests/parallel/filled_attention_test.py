"""One key that stands for many is the many: outputs, gradients, on a mesh and off it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel.attention import packed_attention
from video_dit.parallel.filled_attention import filled_attention, log_fill

_LENGTH = 6  # that captions are filled up to
# Tokens and caption tokens of the segments of each row; one caption is whole, one empty.
_ROWS = (((5, 3, 6), (2, 6, 0)), ((4, 9, 0), (1, 4, 0)))
_TOKENS, _TEXT = 16, 10


def _numbers(counts, length: int) -> np.ndarray:
  numbers = np.repeat(np.arange(1, len(counts) + 1), counts)
  return np.pad(numbers, (0, length - len(numbers))).astype(np.int32)


def _draw():
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  keys = (normal(2, _TEXT, 4, 8), normal(2, _TEXT, 4, 8), normal(4, 8), normal(4, 8))
  segments_RN = np.stack([_numbers(tokens, _TOKENS) for tokens, _ in _ROWS])
  text_RL = np.stack([_numbers(text, _TEXT) for _, text in _ROWS])
  cotangent = normal(2, _TOKENS, 4, 8) * (segments_RN > 0)[..., None, None]
  return (normal(2, _TOKENS, 4, 8), *keys), segments_RN, text_RL, cotangent


def _filled(segments_RN, text_RL, *arrays):
  log_RN = log_fill(text_RL, segments_RN, 3, _LENGTH)
  return filled_attention(*arrays, log_RN, segments_RN, text_RL)


def _explicit(segments_RN, text_RL, q, k, v, fill_k, fill_v):
  """With every copy of the key behind the captions."""
  copies = [
    np.repeat([1, 2, 3], [_LENGTH - n if m else 0 for m, n in zip(*row, strict=True)])
    for row in _ROWS
  ]
  most = max(map(len, copies))
  extra_RL = np.stack([np.pad(x, (0, most - len(x))) for x in copies])

  def lengthen(x, fill):
    return jnp.concatenate([x, jnp.broadcast_to(fill, (2, most, *fill.shape))], 1)

  keys_RL = np.concatenate([text_RL, extra_RL], 1).astype(np.int32)
  k, v = lengthen(k, fill_k), lengthen(v, fill_v)
  return packed_attention(q, k, v, segments_RN, keys_RL)


def _outcome(function, segments_RN, text_RL, arrays, cotangent):
  @jax.jit
  def run(*arrays):
    out, pull = jax.vjp(functools.partial(function, segments_RN, text_RL), *arrays)
    return out, pull(cotangent)

  return jax.device_get(run(*arrays))


@pytest.mark.parametrize("shape", [None, (2, 1, 2, 2)])
def test_it_is_attention_to_every_copy(shape):
  arrays, segments_RN, text_RL, cotangent = _draw()
  expected = _outcome(_explicit, segments_RN, text_RL, arrays, cotangent)
  if shape is None:
    found = _outcome(_filled, segments_RN, text_RL, arrays, cotangent)
  else:
    with jax.set_mesh(mesh_lib.make(jax.devices(), shape)):
      found = _outcome(_filled, segments_RN, text_RL, arrays, cotangent)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-6), found, expected
  )
  assert (found[0][segments_RN == 0] == 0).all()


def test_scores_far_apart_stay_finite():
  arrays, segments_RN, text_RL, cotangent = _draw()
  arrays = (arrays[0] * 300, *arrays[1:])
  out, gradients = _outcome(_filled, segments_RN, text_RL, arrays, cotangent)
  assert all(np.isfinite(x).all() for x in (out, *gradients))
