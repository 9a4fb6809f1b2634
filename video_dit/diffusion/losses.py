"""The loss: every clip weighs the same, whatever row it is packed in.

    loss = sum_s w_s l_s / sum_s w_s,   l_s = mean of (prediction - target)^2 over the
                                        tokens and channels of segment s

summed over all segments of the global batch. A long clip does not outweigh a short one,
and packing, padding and sharding change nothing but the order of the additions. The
numerator is computed here; the caller, who may add up several batches, divides.
"""

import jax
import jax.numpy as jnp

from video_dit.data.batch import members


def weighted_sum(
  prediction_RNP: jax.Array,
  target_RNP: jax.Array,
  weights_RS: jax.Array,
  segments_RN: jax.Array,
  tokens_RS: jax.Array,
  *,
  counted_RN: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Weighted sum of the segments' mean squared errors, in float32.

  Args:
    prediction_RNP: the network's output.
    target_RNP: what it should be.
    weights_RS: weight of each segment; 0 where there is none.
    segments_RN: segment of each token; padding counts for nothing.
    tokens_RS: tokens of each segment.
    counted_RN: bool, the tokens that count (those that are not given); None counts all.
      A segment of which none counts has loss 0 and keeps its weight.

  Returns:
    The sum `()`, not divided by the weights' sum, and each segment's own loss `(R, S)`
    for logging, without gradient.
  """
  error_RNP = prediction_RNP.astype(jnp.float32) - target_RNP.astype(jnp.float32)
  error_RN = jnp.mean(jnp.square(error_RNP), axis=-1)
  if counted_RN is not None:
    error_RN = jnp.where(counted_RN, error_RN, 0.0)
    tokens_RS = sum_by_segment(
      counted_RN.astype(jnp.float32), segments_RN, tokens_RS.shape[1]
    )
  size_RS = jnp.maximum(tokens_RS.astype(jnp.float32), 1.0)

  # One weight for each token: its gradient is a product, with no scatter.
  share_RS = weights_RS / size_RS
  share_RN = jnp.take_along_axis(share_RS, jnp.maximum(segments_RN - 1, 0), axis=1)
  share_RN = jnp.where(segments_RN > 0, share_RN, 0.0)
  total = jnp.sum(share_RN * error_RN)

  fixed_RN = jax.lax.stop_gradient(error_RN)
  losses_RS = sum_by_segment(fixed_RN, segments_RN, tokens_RS.shape[1]) / size_RS
  return total, losses_RS


def sum_by_segment(
  values_RN: jax.Array, segments_RN: jax.Array, num_segments: int
) -> jax.Array:
  """Sums token values over each segment, `(R, S)`; written so that XLA fuses it."""
  member_RNS = members(segments_RN, num_segments)
  return jnp.sum(jnp.where(member_RNS, values_RN[:, :, None], 0.0), axis=1)
