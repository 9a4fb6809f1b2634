"""Packing does not change what a clip weighs."""

import jax
import jax.numpy as jnp
import numpy as np

from video_dit.diffusion import losses

KEYS = jax.random.split(jax.random.key(0))
PREDICTION = jax.random.normal(KEYS[0], (9, 4))
TARGET = jax.random.normal(KEYS[1], (9, 4))
SQUARES = np.mean((np.asarray(PREDICTION) - np.asarray(TARGET) - 1e-3) ** 2, axis=-1)


def pack(values_NP, layout, padding):
  """Rows of 9 tokens; `layout` names the clip tokens of each row in order."""
  index = np.array([[*tokens, *[9] * (9 - len(tokens))] for tokens in layout])
  return jnp.pad(values_NP, ((0, 1), (0, 0)), constant_values=padding)[index]


# Clips of 2, 3 and 4 tokens: all in one row; or in three rows; weights 1, 2, 1.
ONE = {
  "layout": [range(9)],
  "segments_RN": jnp.int32([[1, 1, 2, 2, 2, 3, 3, 3, 3]]),
  "tokens_RS": jnp.int32([[2, 3, 4]]),
  "weights_RS": jnp.float32([[1, 2, 1]]),
}
THREE = {
  "layout": [[5, 6, 7, 8], [0, 1], [2, 3, 4]],
  "segments_RN": jnp.int32([[1] * 4 + [0] * 5, [1] * 2 + [0] * 7, [1] * 3 + [0] * 6]),
  "tokens_RS": jnp.int32([[4, 0], [2, 0], [3, 0]]),
  "weights_RS": jnp.float32([[1, 0], [1, 0], [2, 0]]),
}


def loss_of(prediction_NP, packing, **more):
  packing = dict(packing)
  layout = packing.pop("layout")

  @jax.jit
  def compiled(prediction_NP, packing, more):
    return losses.weighted_sum(
      pack(prediction_NP, layout, 7.0),
      pack(TARGET, layout, -7.0) + 1e-3,
      **packing,
      **more,
    )

  return compiled(prediction_NP, packing, more)


def test_it_is_the_weighted_sum_of_the_clips_means():
  means = [SQUARES[:2].mean(), SQUARES[2:5].mean(), SQUARES[5:].mean()]
  loss, losses_RS = loss_of(PREDICTION, ONE)
  np.testing.assert_allclose(losses_RS[0], means, rtol=1e-6)
  np.testing.assert_allclose(loss, means[0] + 2 * means[1] + means[2], rtol=1e-6)


def test_packing_changes_neither_loss_nor_gradient():
  def value(packing):
    return jax.jit(jax.value_and_grad(lambda p: loss_of(p, packing)[0]))(PREDICTION)

  (loss_one, grad_one), (loss_three, grad_three) = value(ONE), value(THREE)
  np.testing.assert_allclose(loss_one, loss_three, rtol=1e-6)
  np.testing.assert_allclose(grad_one, grad_three, rtol=1e-5, atol=1e-8)
  np.testing.assert_allclose(
    loss_of(PREDICTION, ONE)[1][0, 2], loss_of(PREDICTION, THREE)[1][0, 0], rtol=1e-6
  )


def test_given_tokens_do_not_count():
  counted_RN = jnp.arange(9)[None] >= 1
  _, losses_RS = loss_of(PREDICTION, ONE, counted_RN=counted_RN)
  np.testing.assert_allclose(losses_RS[0, 0], SQUARES[1], rtol=1e-6)


def test_accumulated_batches_add_up_to_the_whole():
  whole, _ = loss_of(PREDICTION, THREE)
  parts = 0.0
  for row in range(3):
    part = {k: v[row : row + 1] for k, v in THREE.items()}
    parts += loss_of(PREDICTION, part)[0]
  np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_it_is_float32_whatever_comes():
  loss, losses_RS = losses.weighted_sum(
    jnp.ones((1, 9, 4), jnp.bfloat16),
    jnp.zeros((1, 9, 4), jnp.bfloat16),
    *(ONE[k] for k in ("weights_RS", "segments_RN", "tokens_RS")),
  )
  assert loss.dtype == losses_RS.dtype == jnp.float32 and loss == 4


def test_an_empty_batch_has_no_loss():
  zero = jnp.zeros((1, 2))
  x = jnp.ones((1, 9, 4))
  loss, _ = losses.weighted_sum(
    x, 2 * x, zero, jnp.zeros((1, 9), jnp.int32), zero.astype(jnp.int32)
  )
  assert loss == 0
