"""Context parallelism: equal to one device, even, and with no whole row on any device."""

import jax
import numpy as np
import pytest

from video_dit.parallel import attention, context, stripes
from video_dit.parallel import mesh as mesh_lib

_ROWS, _TOKENS, _HEADS, _SIZE = 2, 64, 8, 4
# Uneven segments: over eight devices the second lies on five of them; row 2 has padding
# at its end, of a whole device and more.
_LENGTHS = ((3, 37, 1, 16, 7), (5, 5, 20, 19))
_SEGMENTS = np.zeros((_ROWS, _TOKENS), np.int32)
for _row, _lengths in enumerate(_LENGTHS):
  _SEGMENTS[_row, : sum(_lengths)] = np.repeat(np.arange(len(_lengths)) + 1, _lengths)


def _arrays() -> list[np.ndarray]:
  """Queries, keys, values and a cotangent."""
  rng = np.random.default_rng(0)
  shape = (4, _ROWS, _TOKENS, _HEADS, _SIZE)
  return list(rng.normal(size=shape).astype(np.float32))


def _run(mode: str):
  """Output and gradients over the mesh in use, tokens in their row's order."""

  def run(q, k, v, cotangent, segments):
    deal = stripes.Deal(mode, _HEADS)
    dealt = deal.tokens(segments)

    def attend(*arrays):
      q, k, v = map(deal.tokens, arrays)
      out = attention.packed_attention(q, k, v, dealt, dealt, context=mode)
      return deal.back(out)

    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(cotangent)

  return jax.jit(run)


@pytest.fixture(scope="module")
def alone():
  """What one device makes of it."""
  return jax.device_get(_run("gather")(*_arrays(), _SEGMENTS))


@pytest.mark.parametrize(
  ("shape", "mode"),
  [
    ((1, 1, 1, 8), "ring"),
    ((1, 1, 1, 8), "all_to_all"),
    ((1, 1, 1, 8), "both"),
    ((2, 1, 2, 2), "ring"),
    ((1, 2, 1, 4), "both"),
    ((1, 1, 4, 2), "auto"),
    ((1, 2, 1, 4), "gather"),
  ],
  ids=str,
)
def test_outputs_and_gradients_are_those_of_one_device(alone, shape, mode):
  with jax.set_mesh(mesh_lib.make(jax.devices(), shape)):
    found = jax.device_get(_run(mode)(*_arrays(), _SEGMENTS))
  for ours, expected in zip(found, alone, strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  ("mode", "heads", "expected"),
  [
    ("gather", 8, None),
    ("ring", 6, (1, 4)),
    ("all_to_all", 8, (4, 1)),
    ("both", 8, (2, 2)),
    ("auto", 8, (4, 1)),
    ("auto", 12, (2, 2)),
    ("auto", 6, (1, 4)),
  ],
)
def test_the_axis_is_divided_as_heads_allow(mode, heads, expected):
  found = context.split(mode, heads, tensor=2, context=4)
  assert found == (expected and context.Split(*expected))


@pytest.mark.parametrize("mode", ["all_to_all", "both"])
def test_heads_that_do_not_divide_are_refused_with_a_remedy(mode):
  with pytest.raises(ValueError) as refused:
    context.split(mode, 18, tensor=2, context=4)
  for part in (
    f"config.dit.context='{mode}'",
    "9 heads",
    "context=4",
    "Choose",
    "'ring'",
  ):
    assert part in str(refused.value)


def test_stripes_keep_the_order_and_are_undone():
  order = np.arange(4096, dtype=np.int32)[None]
  for ring, size in ((2, 256), (4, 128), (8, 64)):
    assert stripes.stripe_tokens(4096, ring) == size
    dealt = np.asarray(stripes.stripe(order, ring)).reshape(ring, -1)
    assert (np.diff(dealt) > 0).all()
    np.testing.assert_array_equal(stripes.unstripe(dealt.reshape(1, -1), ring), order)
  assert stripes.stripe_tokens(460_800, 8) == 256
  assert stripes.stripe_tokens(524_288, 8) == 512


def test_stripes_even_out_uneven_segments():
  ring, length = 8, 65_536
  lengths = [30_000, 256, 9_000, 1_024, 4_096, 14_000, 700, 6_000, 460]
  segments = np.repeat(np.arange(len(lengths)) + 1, lengths)
  assert len(segments) == length
  work = np.asarray(lengths, np.float64)[segments - 1]  # pairs of each query

  def unevenness(order):
    of_group = work[order].reshape(ring, -1).sum(1)
    return of_group.max() / of_group.mean() - 1

  contiguous = np.arange(length)
  dealt = np.asarray(stripes.stripe(contiguous[None], ring))[0]
  assert unevenness(contiguous) > 0.5
  assert unevenness(dealt) < 0.1
