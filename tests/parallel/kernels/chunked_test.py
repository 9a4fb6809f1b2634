"""The chunked form: the dense form's results, for as many chunks as the map names."""

import jax
import numpy as np
import pytest

from tests.parallel.kernels import rows
from video_dit.parallel.kernels import blocks, chunked, dense

_PACKED = rows.segments((5, 3, 26, 8), (9, 40), length=50)
_TEXT = rows.segments((4, 0, 9, 2), (6, 6), length=19)
_MIXED = np.random.default_rng(0).integers(0, 5, (2, 50)).astype(np.int32)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
  """Several chunks and a bit of one more, of queries and of keys."""
  monkeypatch.setattr(chunked, "BLOCK", 8)
  monkeypatch.setattr(chunked, "KEY_BLOCK", 4)


def _all(kernel, segments, arrays, dlse):
  """Output, log-sum-exp and gradients."""

  def run(q, k, v, dout, dlse):
    out, lse = kernel.attention(q, k, v, *segments)
    found = kernel.gradients(q, k, v, *segments, lse, rows.delta(out, dout, dlse), dout)
    return out, lse, *found

  return jax.jit(run)(*arrays, dlse)


_CASES = {"self": (_PACKED, _PACKED), "text": (_PACKED, _TEXT), "mixed": (_MIXED, _MIXED)}


@pytest.mark.parametrize("segments", _CASES.values(), ids=_CASES)
def test_results_and_gradients_are_those_of_the_dense_form(segments):
  arrays, dlse = rows.arrays(*segments, heads=2, size=4)
  found = _all(chunked, segments, arrays, dlse)
  for a, b in zip(found, _all(dense, segments, arrays, dlse), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_the_dense_gradients_are_those_of_differentiation():
  arrays, dlse = rows.arrays(_PACKED, _TEXT, heads=2, size=4)

  @jax.jit
  def derived(q, k, v, dout, dlse):
    def attend(*qkv):
      return dense.attention(*qkv, _PACKED, _TEXT)

    out, pull = jax.vjp(attend, q, k, v)
    return *out, *pull((dout, dlse))

  found = _all(dense, (_PACKED, _TEXT), arrays, dlse)
  for a, b in zip(found, derived(*arrays, dlse), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("keys", [_PACKED, _TEXT], ids=["self", "text"])
def test_the_chunks_that_are_visited_are_those_of_the_map(keys):
  arrays, _ = rows.arrays(_PACKED, keys, heads=1, size=4)
  visited = jax.jit(chunked.counted)(*arrays[:3], _PACKED, keys)[2]
  padded = np.pad(_PACKED, [(0, 0), (0, 6)])
  padded_keys = np.pad(keys, [(0, 0), (0, -keys.shape[1] % 4)])
  found = blocks.block_map(padded, padded_keys, 8, 4)
  np.testing.assert_array_equal(visited, found.last_RI - found.first_RI)
  assert visited[0].sum() < visited[0].size * padded_keys.shape[1] // 4 / 2


@pytest.mark.parametrize("kernel", [chunked, dense])
def test_queries_of_half_precision_are_not_rounded_by_the_scale(kernel):
  (q, k, v, _), _ = rows.arrays(_PACKED, _PACKED, heads=2, size=128, dtype="bfloat16")
  q *= 10  # scores of deviation 10
  whole = (x.astype("float32") for x in (q, k, v))
  exact, _ = dense.attention(*whole, _PACKED, _PACKED)
  found, _ = kernel.attention(q, k, v, _PACKED, _PACKED)
  error = np.asarray(found, np.float32) - exact
  assert np.sqrt(np.mean(np.square(error))) < 2e-3
