"""The GPU kernels: exact in interpret mode, no block visited but the map's; lowered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel.kernels import rows
from video_dit.parallel import local
from video_dit.parallel.kernels import blocks, dense, triton, triton_sizes
from video_dit.parallel.kernels.triton_sizes import Sizes

_PACKED = rows.segments((100, 30, 390, 60), (610,), length=620)
_TEXT = rows.segments((20, 0, 200, 9), (240,), length=250)
_MIXED = np.random.default_rng(1).integers(0, 3, (2, 90)).astype(np.int32)

# Segments of queries and of keys, head size, sizes, programs that share a key's queries.
_CASES = {
  "self": (_PACKED, _PACKED, 16, Sizes(64, 32, 4, 2), 1),
  "self, heads to fill up": (_PACKED, _PACKED, 24, Sizes(32, 64, 4, 2), 1),
  "text": (_PACKED, _TEXT, 16, Sizes(64, 32, 4, 2), 1),
  "text, shared": (_PACKED, _TEXT, 16, Sizes(32, 32, 4, 2), 3),
  "no runs": (_MIXED, _MIXED, 16, Sizes(16, 16, 4, 1), 2),
}


def _visits(segments, key_segments, sizes: Sizes):
  """What the map says, `(R, I)`, of rows filled up to whole blocks."""
  step = max(sizes.block, sizes.other)

  def padded(x):
    return np.pad(x, [(0, 0), (0, -x.shape[1] % step)])

  found = blocks.block_map(
    padded(segments), padded(key_segments), sizes.block, sizes.other
  )
  return np.asarray(found.last_RI - found.first_RI)


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_results_gradients_and_visits(case):
  segments, keys, size, sizes, parts = case
  arrays, dlse = rows.arrays(segments, keys, heads=2, size=size)

  @jax.jit
  def run(q, k, v, dout, dlse):
    arguments = q, k, v, segments, keys
    out, lse, count = triton.counted(*arguments, sizes=sizes, interpret=True)
    *found, counts = triton.counted_gradients(
      *(*arguments, lse, rows.delta(out, dout, dlse), dout),
      **{"sizes": sizes, "key_sizes": (sizes, parts), "interpret": True},
    )
    want, want_lse = dense.attention(*arguments)
    wanted = dense.gradients(*arguments, want_lse, rows.delta(want, dout, dlse), dout)
    return (out, lse, *found), (want, want_lse, *wanted), (count, *counts)

  found, wanted, visits = run(*arrays, dlse)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=4e-6)
  of_queries, of_keys = _visits(segments, keys, sizes), _visits(keys, segments, sizes)
  for count, expected in zip(visits, (of_queries, of_queries, of_keys), strict=True):
    for head in range(2):
      by_head = np.asarray(count[:, head])
      np.testing.assert_array_equal(by_head, expected[:, : by_head.shape[1]])
      assert not expected[:, by_head.shape[1] :].any()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("keys", [4096, 250])
def test_output_and_gradients_are_lowered_to_three_kernels_on_a_gpu(dtype, keys):
  device = jax.sharding.AbstractDevice(
    device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu"
  )
  mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
  query = jax.ShapeDtypeStruct((1, 4096, 2, 128), dtype)
  key = jax.ShapeDtypeStruct((1, keys, 2, 128), dtype)
  numbers = [jax.ShapeDtypeStruct((1, n), jnp.int32) for n in (4096, keys)]

  def loss(q, k, v, segments, key_segments):
    out, lse = local.local_attention(q, k, v, segments, key_segments, kernel="triton")
    return out.astype(jnp.float32).sum() + lse.sum()

  with jax.sharding.use_abstract_mesh(mesh):
    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(query, key, key, *numbers)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("@__gpu$xla.gpu.triton") == 3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("size", [40, 64, 128, 256])
@pytest.mark.parametrize(
  ("device", "kib"),
  [
    ("NVIDIA H100 80GB HBM3", 227),
    ("NVIDIA A100-SXM4-80GB", 163),
    ("NVIDIA RTX A3000", 99),
    ("NVIDIA GeForce RTX 4090", 99),
  ],
)
def test_blocks_fit_the_shared_memory_of_each_gpu(device, kib, size, dtype):
  assert triton_sizes.shared_memory(device) == kib
  head, item = triton_sizes.head_size(size), jnp.dtype(dtype).itemsize
  ahead = triton_sizes.forward_sizes(size, dtype, device)
  back = triton_sizes.backward_sizes(size, dtype, device)
  # Queries, and keys and values of each stage; or two arrays on each side.
  need = (ahead.block + 2 * ahead.other * ahead.stages) * head * item
  assert need < kib * 1024
  assert 2 * (back.block + back.other * back.stages) * head * item < kib * 1024
  whole, parts = triton_sizes.key_sizes(size, dtype, device, of_text=False)
  assert (whole, parts) == (back, 1)
  text, parts = triton_sizes.key_sizes(size, dtype, device, of_text=True)
  assert text.block <= 32 and text.other == back.other and parts == 4
