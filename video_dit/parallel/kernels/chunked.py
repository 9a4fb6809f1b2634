"""Chunks of queries by chunks of keys in plain JAX: exact, portable, skips blocks.

Online softmax (Dao et al., 2022, arXiv:2205.14135, algorithms 1 and 4) in loops whose
bounds are the block map's, so that work grows with the sum of the squared segment
lengths, and memory with the row. Rows run one at a time, as their maps differ.
"""

import einops
import jax
import jax.numpy as jnp

from video_dit.parallel import precision
from video_dit.parallel.kernels import blocks
from video_dit.parallel.kernels.dense import NO_KEYS

BLOCK = 512  # queries of a chunk
KEY_BLOCK = 512


def attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention within segments; see `parallel.attention.local_attention`."""
  out, lse, _ = counted(q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM)
  return out, lse


def counted(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`attention`, and the chunks of keys that each chunk of queries visited, `(R, I)`."""
  cut = _Cut(segments_RN, key_segments_RM)
  k, v = cut.keys(k_RMAK), cut.keys(v_RMAK)

  def one(chunk):
    q_ABK, segments_B, r, first, last = chunk

    def visit(j, carry):
      most, total, acc, count = carry
      scores = _scores(q_ABK, k[r, j], segments_B, cut.key_segments[r, j])
      new = jnp.maximum(most, scores.max(-1))
      weights = jnp.exp(scores - new[..., None])
      old = jnp.exp(most - new)
      part = _product("abm,amk->abk", weights.astype(v.dtype), v[r, j])
      total = total * old + weights.sum(-1)
      return new, total, acc * old[..., None] + part, count + 1

    most = jnp.full(q_ABK.shape[:2], NO_KEYS, jnp.float32)
    start = most, jnp.zeros_like(most), jnp.zeros(q_ABK.shape, jnp.float32), 0
    most, total, acc, count = jax.lax.fori_loop(first, last, visit, start)
    # A query that saw no key has scores of -1e30, whose weights count as none.
    some = most > NO_KEYS / 2
    total = jnp.where(some, total, 1.0)
    out_ABK = jnp.where(some, 1 / total, 0.0)[..., None] * acc
    lse_AB = jnp.where(some, most + jnp.log(total), NO_KEYS)
    return out_ABK.astype(q_ABK.dtype), lse_AB, count

  out, lse, count = jax.lax.map(one, (cut.queries(q_RNAK), *cut.steps))
  count_RI = einops.rearrange(count, "(r i) -> r i", r=q_RNAK.shape[0])
  return cut.tokens(out), cut.tokens(lse[..., None])[..., 0], count_RI


def gradients(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, lse_RNA, delta_RNA, dout_RNAK
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of queries, keys and values; see `parallel.attention.local_gradients`."""
  cut = _Cut(segments_RN, key_segments_RM)
  k, v = cut.keys(k_RMAK), cut.keys(v_RMAK)
  scale = q_RNAK.shape[-1] ** -0.5

  def one(sums, chunk):
    q_ABK, dout_ABK, lse_AB, delta_AB, (segments_B, r, first, last) = chunk

    def visit(j, carry):
      dq, dk, dv = carry
      scores = _scores(q_ABK, k[r, j], segments_B, cut.key_segments[r, j])
      weights = jnp.exp(scores - lse_AB[..., None])
      of_weights = _product("abk,amk->abm", dout_ABK, v[r, j])
      of_scores = (weights * (of_weights - delta_AB[..., None]) * scale).astype(k.dtype)
      weights = weights.astype(v.dtype)
      dq += _product("abm,amk->abk", of_scores, k[r, j])
      dk = dk.at[r, j].add(_product("abm,abk->amk", of_scores, q_ABK))
      dv = dv.at[r, j].add(_product("abm,abk->amk", weights, dout_ABK))
      return dq, dk, dv

    dq, *sums = jax.lax.fori_loop(
      first, last, visit, (jnp.zeros(q_ABK.shape, jnp.float32), *sums)
    )
    return tuple(sums), dq.astype(q_ABK.dtype)

  # exp(score - lse) of a query that sees nothing has to be 0, not exp(0).
  lse_RNA = jnp.where(lse_RNA > NO_KEYS / 2, lse_RNA, -NO_KEYS)
  chunks = (
    cut.queries(q_RNAK),
    cut.queries(dout_RNAK.astype(q_RNAK.dtype)),
    cut.queries(lse_RNA[..., None])[..., 0],
    cut.queries(delta_RNA[..., None])[..., 0],
    cut.steps,
  )
  zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
  (dk, dv), dq = jax.lax.scan(one, zeros, chunks)
  return cut.tokens(dq), cut.key_tokens(dk, k_RMAK), cut.key_tokens(dv, v_RMAK)


class _Cut:
  """Rows in chunks, padded, and what each chunk of queries visits."""

  def __init__(self, segments_RN, key_segments_RM):
    self.rows, self.length = segments_RN.shape
    keys = key_segments_RM.shape[1]
    self.block, self.key_block = min(BLOCK, self.length), min(KEY_BLOCK, keys)
    self.padded = self.length + -self.length % self.block
    self.padded_keys = keys + -keys % self.key_block
    segments = blocks.padded(segments_RN, self.padded)
    key_segments = blocks.padded(key_segments_RM, self.padded_keys)
    found = blocks.block_map(segments, key_segments, self.block, self.key_block)
    cut = einops.rearrange(segments, "r (i b) -> (r i) b", b=self.block)
    row = einops.repeat(jnp.arange(self.rows), "r -> (r i)", i=self.padded // self.block)
    bounds = (
      einops.rearrange(x, "r i -> (r i)") for x in (found.first_RI, found.last_RI)
    )
    self.steps = (cut, row, *bounds)
    self.key_segments = einops.rearrange(
      key_segments, "r (j m) -> r j m", m=self.key_block
    )

  def queries(self, x_RNAK):
    x = blocks.padded(x_RNAK, self.padded)
    return einops.rearrange(x, "r (i b) a k -> (r i) a b k", b=self.block)

  def keys(self, x_RMAK):
    x = blocks.padded(x_RMAK, self.padded_keys)
    return einops.rearrange(x, "r (j m) a k -> r j a m k", m=self.key_block)

  def tokens(self, x):
    x = einops.rearrange(x, "(r i) a b k -> r (i b) a k", r=self.rows)
    return x[:, : self.length]

  def key_tokens(self, x, like):
    x = einops.rearrange(x, "r j a m k -> r (j m) a k")
    return x[:, : like.shape[1]].astype(like.dtype)


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
  asked = precision.of(a, b)
  return jnp.einsum(form, a, b, precision=asked, preferred_element_type=jnp.float32)


def _scores(q_ABK, k_AMK, segments_B, key_segments_M):
  scale = q_ABK.shape[-1] ** -0.5
  scores_ABM = scale * _product("abk,amk->abm", q_ABK, k_AMK)
  seen_BM = segments_B[:, None] == key_segments_M[None]
  seen_BM &= (segments_B > 0)[:, None]
  return jnp.where(seen_BM[None], scores_ABM, NO_KEYS)
