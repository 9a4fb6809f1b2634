"""Forward passes on GPU by libraries: Tokamax's kernels, and cuDNN's through `jax.nn`.

Tokamax (the extra `tokamax`) takes a first and a last key for each query and
skips the blocks outside; its Mosaic kernels run on Hopper and Blackwell, Triton's on
others. cuDNN takes a mask, so its work grows with the square of the row: it is never
chosen automatically. The backward pass of both is this project's (triton.py). Neither has
been run by this project on a GPU; the ranges and the masks are tested on CPU.
"""

from typing import Any

from absl import logging
import jax
import jax.numpy as jnp

from video_dit.parallel.kernels import triton
from video_dit.parallel.kernels.dense import NO_KEYS


def key_ranges(
  segments_RN: jax.Array, key_segments_RM: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """First key, and one past the last, that each query sees.

  Args:
    segments_RN: segment of each query, in any order.
    key_segments_RM: of each key, ascending, then padding.

  Returns:
    Two of `(R, N)` int32, equal where a query sees no key.
  """
  most = jnp.iinfo(key_segments_RM.dtype).max
  keys_RM = jnp.where(key_segments_RM > 0, key_segments_RM, most)
  seen_RN = segments_RN > 0

  def ends(side: str) -> jax.Array:
    find = jax.vmap(lambda keys, queries: jnp.searchsorted(keys, queries, side=side))
    return jnp.where(seen_RN, find(keys_RM, segments_RN), 0).astype(jnp.int32)

  return ends("left"), ends("right")


def parts() -> tuple[Any, Any]:
  """What is used of Tokamax: its implementations by name, and the mask that they take.

  Raises:
    ImportError, AttributeError: this version has them elsewhere, or not at all.
  """
  from tokamax._src.ops.attention import api, base

  return api.IMPLEMENTATIONS, base.Mask


def tokamax(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  device: str = "",
) -> tuple[jax.Array, jax.Array]:
  """Tokamax's kernels; like `local_attention`, for ascending segments of keys.

  Args:
    device: the kind of GPU; empty elsewhere, where Tokamax's plain form runs.
  """
  implementations, mask_of = parts()
  first_RN, last_RN = key_ranges(segments_RN, key_segments_RM)
  mask = mask_of(k_start=first_RN[:, None], k_end=last_RN[:, None])
  names = ("mosaic_gpu", "triton") if device else ("xla",)
  for name in names:  # the fastest first
    try:
      with jax.numpy_rank_promotion("allow"):  # which its code relies on
        out, (most, total) = implementations[name](
          q_RNAK, k_RMAK, v_RMAK, mask=mask, return_residuals=True
        )
    except NotImplementedError:
      continue
    lse_RNA = (most + jnp.log(total)).swapaxes(1, 2)
    return _blind_are_zero(out, lse_RNA, last_RN > first_RN)
  logging.info(
    "attention: Tokamax does not support %s %s; using triton", q_RNAK.dtype, q_RNAK.shape
  )
  arguments = q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM
  return triton.attention(*arguments, device=device)


def cudnn(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
  *,
  device: str = "",
) -> tuple[jax.Array, jax.Array]:
  """CuDNN's fused attention with a mask; off the GPU, XLA's."""
  seen_RNM = segments_RN[:, :, None] == key_segments_RM[:, None, :]
  seen_RNM &= (segments_RN > 0)[:, :, None]
  out, lse_RNA = jax.nn.dot_product_attention(
    q_RNAK,
    k_RMAK,
    v_RMAK,
    mask=seen_RNM[:, None],
    implementation="cudnn" if device else "xla",
    return_residual=True,
  )
  return _blind_are_zero(out, lse_RNA, seen_RNM.any(-1))


def _blind_are_zero(out_RNAK, lse_RNA, sees_RN):
  out = jnp.where(sees_RN[:, :, None, None], out_RNAK, 0).astype(out_RNAK.dtype)
  return out, jnp.where(sees_RN[:, :, None], lse_RNA.astype(jnp.float32), NO_KEYS)
