"""Context parallelism: equal to one device, even, and with no whole row on any device."""

import einops
import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

from video_dit.models.dit.model import rematerialised
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


def test_the_policy_attention_keeps_output_and_log_sum_exp_alone(capsys):
  """Nothing of a single turn of the ring, and no keys or values of other devices."""

  def loss(x_RND, kernels_LDD, segments):
    def block(x_RND, kernel_DD):
      q = einops.rearrange(x_RND @ kernel_DD, "r n (a k) -> r n a k", a=_HEADS)
      out = attention.packed_attention(q, q, q, segments, segments, context="ring")
      return einops.rearrange(out, "r n a k -> r n (a k)"), None

    return jax.lax.scan(rematerialised(block, "attention"), x_RND, kernels_LDD)[0].sum()

  width = _HEADS * _SIZE
  x, kernels = jnp.zeros((_ROWS, _TOKENS, width)), jnp.zeros((3, width, width))
  with jax.set_mesh(mesh_lib.make(jax.devices(), (1, 1, 1, 8))):
    jax.ad_checkpoint.print_saved_residuals(loss, x, kernels, _SEGMENTS)
  kept = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
  made = sorted(shape for shape in kept if shape.startswith("f32[3,2,"))
  assert made == ["f32[3,2,64,32]", "f32[3,2,64,8,4]", "f32[3,2,8,64]"]
  assert len(kept) == len(made) + 2  # and the kernels and segments that were given


def test_a_ring_s_memory_falls_with_the_axis_and_gathered_keys_do_not():
  def needed(mode: str, ways: int) -> int:
    """Bytes besides arguments and results on one device, forward and backward."""

    def loss(q, k, v, segments):
      out = attention.packed_attention(
        *(q, k, v, segments, segments), kernel="chunked", context=mode
      )
      return jnp.sum(jnp.square(out))

    mesh = mesh_lib.make(jax.devices()[:ways], (1, 1, 1, ways))
    split = jax.NamedSharding(mesh, jax.P(None, "context"))
    array = jax.ShapeDtypeStruct((1, 16_384, 8, 64), jnp.float32)
    segments = jax.ShapeDtypeStruct((1, 16_384), jnp.int32)
    with jax.set_mesh(mesh):
      step = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=(split,) * 4)
      compiled = step.lower(array, array, array, segments).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  ring = needed("ring", 8)
  assert ring < 0.4 * needed("ring", 2)
  assert ring < 0.7 * needed("gather", 8)
