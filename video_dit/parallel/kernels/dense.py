"""The plain form: all scores of a row at once; for short rows, and as a reference."""

import jax
import jax.numpy as jnp

from video_dit.parallel import precision

NO_KEYS = -1e30  # the log-sum-exp of a query that sees no key: no weight in a merge


def attention(
  q_RNAK: jax.Array,
  k_RMAK: jax.Array,
  v_RMAK: jax.Array,
  segments_RN: jax.Array,
  key_segments_RM: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Softmax attention within segments; see `parallel.attention.local_attention`."""
  scores_RANM, seen_RNM = _scores(q_RNAK, k_RMAK, segments_RN, key_segments_RM)
  most_RAN = jax.lax.stop_gradient(scores_RANM.max(-1))
  # A query without keys has only scores of -1e30, and would get their mean.
  weights_RANM = jnp.where(
    seen_RNM[:, None], jnp.exp(scores_RANM - most_RAN[..., None]), 0
  )
  sum_RAN = weights_RANM.sum(-1)
  any_RAN = seen_RNM.any(-1)[:, None]
  sum_RAN = jnp.where(any_RAN, sum_RAN, 1.0)
  weights_RANM /= sum_RAN[..., None]
  out_RNAK = _product("ranm,rmak->rnak", weights_RANM.astype(v_RMAK.dtype), v_RMAK)
  lse_RAN = jnp.where(any_RAN, most_RAN + jnp.log(sum_RAN), NO_KEYS)
  return out_RNAK.astype(q_RNAK.dtype), lse_RAN.swapaxes(1, 2)


def gradients(
  q_RNAK, k_RMAK, v_RMAK, segments_RN, key_segments_RM, lse_RNA, delta_RNA, dout_RNAK
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of queries, keys and values; see `parallel.attention.local_gradients`."""
  scores_RANM, seen_RNM = _scores(q_RNAK, k_RMAK, segments_RN, key_segments_RM)
  lse_RAN, delta_RAN = lse_RNA.swapaxes(1, 2), delta_RNA.swapaxes(1, 2)
  weights_RANM = jnp.where(
    seen_RNM[:, None], jnp.exp(scores_RANM - lse_RAN[..., None]), 0
  )
  of_weights_RANM = _product("rnak,rmak->ranm", dout_RNAK, v_RMAK, jnp.float32)
  of_scores_RANM = weights_RANM * (of_weights_RANM - delta_RAN[..., None])
  of_scores_RANM = (of_scores_RANM * q_RNAK.shape[-1] ** -0.5).astype(q_RNAK.dtype)
  dq = _product("ranm,rmak->rnak", of_scores_RANM, k_RMAK)
  dk = _product("ranm,rnak->rmak", of_scores_RANM, q_RNAK)
  dv = _product("ranm,rnak->rmak", weights_RANM.astype(v_RMAK.dtype), dout_RNAK)
  return dq, dk, dv


def _product(form: str, a: jax.Array, b: jax.Array, dtype=None) -> jax.Array:
  asked = precision.of(a, b)
  return jnp.einsum(form, a, b, precision=asked, preferred_element_type=dtype)


def _scores(q_RNAK, k_RMAK, segments_RN, key_segments_RM):
  """Scaled scores, -1e30 where unseen, and which pairs see each other."""
  scale = q_RNAK.shape[-1] ** -0.5
  # The scale comes after the product: it would round half-precision queries.
  scores_RANM = scale * _product("rnak,rmak->ranm", q_RNAK, k_RMAK, jnp.float32)
  seen_RNM = segments_RN[:, :, None] == key_segments_RM[:, None, :]
  seen_RNM &= (segments_RN > 0)[:, :, None]
  return jnp.where(seen_RNM[:, None], scores_RANM, NO_KEYS), seen_RNM
