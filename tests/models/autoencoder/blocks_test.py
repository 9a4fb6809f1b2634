"""Blocks of published autoencoders: norm and attention by their formulas."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.models.autoencoder import blocks


def _clip(channels: int) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.normal(1, 2, (2, 3, 2, 4, channels)).astype(np.float32)


def test_a_group_norm_is_of_all_points_and_of_a_groups_channels():
  clip_BFHWC = _clip(6)
  found = jax.jit(blocks.GroupNorm(6, groups=2))(clip_BFHWC)
  groups = np.asarray(found).reshape(2, -1, 2, 3)
  np.testing.assert_allclose(groups.mean((1, 3)), 0, atol=1e-5)
  np.testing.assert_allclose(groups.var((1, 3)), 1, atol=1e-4)


def test_attention_is_a_softmax_over_this_frame_and_those_before():
  rng = np.random.default_rng(0)
  q, k, v = (rng.normal(size=(2, 12, 5)).astype(np.float32) for _ in range(3))
  found = jax.jit(lambda *qkv: blocks.attend_causally(*qkv, frame_size=4))(q, k, v)
  scores = np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(5)
  frame = np.arange(12) // 4
  weights = np.exp(scores) * (frame[None, :, None] >= frame[None, None])
  expected = np.einsum("bqk,bkc->bqc", weights / weights.sum(-1, keepdims=True), v)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_attention_is_added_to_its_input():
  attention = blocks.Attention(4, groups=2, rngs=nnx.Rngs(0))
  clip_BFHWC = _clip(4)
  plain = attention(clip_BFHWC)
  assert np.abs(plain - clip_BFHWC).max() > 0.1
  attention.out.kernel[...] = jnp.zeros((4, 4))
  np.testing.assert_array_equal(attention(clip_BFHWC), clip_BFHWC)
