"""The TPU kernels in interpret mode: exact, and no block visited but the map's.

Rows touch up to five blocks of keys from one block of queries, since other kernels are
known to go wrong there beyond three.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel.kernels import rows
from video_dit.parallel.kernels import blocks, dense, splash
from video_dit.parallel.kernels.splash_sizes import Sizes, choose

_B = 128  # the least block
_PACKED = rows.segments((100, 30, 390, 60), (610,), length=620)
_TEXT = rows.segments((20, 0, 200, 9), (240,), length=250)


def _sizes(block: int, chunk: int, head: int = 128) -> Sizes:
  return Sizes(head=head, block=block, key_block=_B, chunk=chunk)


# Segments, sizes of the forward pass, of the backward pass.
_CASES = {
  "self, one chunk": (*(_PACKED, _PACKED), *(_sizes(_B, 640), _sizes(_B, 640))),
  "self, chunks": (*(_PACKED, _PACKED), *(_sizes(_B, 256), _sizes(256, 384))),
  "wide heads": (*(_PACKED, _PACKED), *(_sizes(_B, 256, 256), _sizes(_B, 384, 256))),
  "text": (*(_PACKED, _TEXT), *(_sizes(256, 256), _sizes(_B, 640))),
  "text, queries by parts": (*(_PACKED, _TEXT), *(_sizes(256, 256), _sizes(_B, 256))),
}


def _visits(segments, key_segments, sizes: Sizes):
  """What the map says, `(R, I)`."""

  def padded(x, step):
    return np.pad(x, [(0, 0), (0, -x.shape[1] % step)])

  found = blocks.block_map(
    padded(segments, sizes.block),
    padded(key_segments, sizes.chunk),
    sizes.block,
    sizes.key_block,
  )
  return np.asarray(found.last_RI - found.first_RI)


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_results_gradients_and_visits(case):
  segments, keys, forward, backward = case
  arrays, dlse = rows.arrays(
    segments, keys, heads=2, size=8 if forward.head == 128 else 200
  )

  @jax.jit
  def run(q, k, v, dout, dlse):
    arguments = q, k, v, segments, keys
    out, lse, visits = splash.counted(*arguments, sizes=forward, interpret=True)
    *found, count = splash.counted_gradients(
      *(*arguments, lse, rows.delta(out, dout, dlse), dout),
      **{"sizes": backward, "interpret": True},
    )
    want, want_lse = dense.attention(*arguments)
    wanted = dense.gradients(*arguments, want_lse, rows.delta(want, dout, dlse), dout)
    return (out, lse, *found), (want, want_lse, *wanted), (visits, count)

  found, wanted, visits = run(*arrays, dlse)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=4e-6)
  expected = [_visits(segments, keys, forward), _visits(keys, segments, backward)]
  for count, by_row in zip(visits, expected, strict=True):
    for head in range(2):
      np.testing.assert_array_equal(count[:, head], by_row)


def test_sizes_fit_the_memory_of_each_chip():
  for device, mib in (("TPU v5", 64), ("TPU v6e", 128), ("TPU v4", 16)):
    for length in (2048, 32_768, 460_800):
      shape = (1, length, 9, 128)
      forward = choose(shape, length, jnp.bfloat16, device)
      back = choose(shape, length, jnp.bfloat16, device, of_keys=True)
      assert forward.chunk * 128 * 2 * 4 <= mib * 2**20 / 2
      assert forward.chunk % forward.key_block == back.chunk % back.key_block == 0
      # Of the backward pass: the gradient of a chunk's queries is summed in VMEM, too.
      assert back.chunk * 128 * (4 * 2 + 4) <= 0.8 * mib * 2**20


@pytest.mark.parametrize(
  ("length", "parts"), [(1024, 1), (32_768, 1), (75_776, 3), (460_800, 14)]
)
def test_on_v5p_queries_go_by_few_parts_in_the_backward_pass(length, parts):
  sizes = choose((1, length, 9, 128), length, jnp.bfloat16, "TPU v5", of_keys=True)
  assert -(-length // sizes.chunk) == parts


@pytest.mark.parametrize(("asked", "found"), [(0, 512), (256, 256), (1024, 1024)])
def test_a_row_has_the_blocks_asked_for_and_a_text_small_ones(asked, found):
  def sides(shape, others, **which):
    sizes = choose(shape, others, jnp.bfloat16, "TPU v5", block=asked, **which)
    return sizes.block, sizes.key_block

  row, text = (1, 32_768, 2, 128), (1, 4096, 2, 128)
  assert sides(row, 32_768) == sides(row, 32_768, of_keys=True) == (found, found)
  assert sides(row, 4096) == (found, 128)
  assert sides(text, 32_768, of_keys=True) == (128, found)


@pytest.mark.parametrize(("size", "lanes"), [(72, 128), (128, 128), (192, 256)])
def test_heads_are_filled_up_to_whole_lanes(size, lanes):
  assert choose((1, 2048, 2, size), 2048, jnp.bfloat16, "").head == lanes


def test_queries_of_half_precision_are_not_rounded_by_the_scale():
  segments = _PACKED[:, :256]
  (q, k, v, _), _ = rows.arrays(segments, segments, heads=1, size=128, dtype="bfloat16")
  q *= 10  # scores of deviation 10
  whole = (x.astype("float32") for x in (q, k, v))
  exact, _ = dense.attention(*whole, segments, segments)
  sizes = _sizes(_B, 256)
  found, _, _ = splash.counted(q, k, v, segments, segments, sizes=sizes, interpret=True)
  error = np.asarray(found, np.float32) - exact
  assert np.sqrt(np.mean(np.square(error))) < 2e-3
