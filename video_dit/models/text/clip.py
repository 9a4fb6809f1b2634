"""CLIP's text encoder: Radford et al. 2021 (arXiv:2103.00020), section 2.4.

A causal transformer with norms before each part, learned positions, and a final norm.
Latent diffusion (Rombach et al. 2022, arXiv:2112.10752) takes the last hidden states of
all its tokens, padding included: no token sees those after it.
"""

import dataclasses
from typing import Literal

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.parallel import precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
  """Sizes of an encoder.

  Attributes:
    vocabulary: number of ids.
    positions: tokens of a text, padding included.
    width, depth, heads, mlp_width: of the transformer; heads divide the width.
    activation: `quick_gelu`, x sigmoid(1.702 x), or the exact `gelu`.
    epsilon: of the norms.
  """

  vocabulary: int = 49408
  positions: int = 77
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_width: int = 3072
  activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
  epsilon: float = 1e-5


class Linear(nnx.Module):
  """`x @ kernel + bias`."""

  def __init__(
    self, shape: tuple[int, int], axes: tuple[str, str], std: float, *, rngs: nnx.Rngs
  ):
    kernel = std * jax.random.normal(rngs.params(), shape, jnp.float32)
    self.kernel = nnx.Param(kernel, axes=axes)
    self.bias = nnx.Param(jnp.zeros(shape[1:], jnp.float32), axes=axes[1:])

  def __call__(self, x_BLE: jax.Array) -> jax.Array:
    bias = self.bias[...].astype(x_BLE.dtype)
    kernel = self.kernel[...].astype(x_BLE.dtype)
    y_BLE = jnp.dot(x_BLE, kernel, precision=precision.of(x_BLE, kernel))
    return y_BLE + bias[None, None]


class LayerNorm(nnx.Module):
  """Normalises to mean 0 and deviation 1 in float32, then scales and shifts."""

  def __init__(self, width: int, epsilon: float):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((width,), jnp.float32), axes=("embed",))
    self.bias = nnx.Param(jnp.zeros((width,), jnp.float32), axes=("embed",))

  def __call__(self, x_BLE: jax.Array) -> jax.Array:
    h = x_BLE.astype(jnp.float32)
    h -= jnp.mean(h, -1, keepdims=True)
    h *= jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + self.epsilon)
    scale, bias = (
      p[...].astype(jnp.float32)[None, None] for p in (self.scale, self.bias)
    )
    return (h * scale + bias).astype(x_BLE.dtype)


class Block(nnx.Module):
  """Causal self-attention and MLP, each added to what came in."""

  def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
    width, hidden = config.width, config.mlp_width
    self.heads, self.activation = config.heads, config.activation
    # CLIP's own deviations.
    std = width**-0.5 * (2 * config.depth) ** -0.5
    into, out = ("embed", "heads"), ("heads", "embed")
    self.attention_norm = LayerNorm(width, config.epsilon)
    self.q = Linear((width, width), into, width**-0.5, rngs=rngs)
    self.k = Linear((width, width), into, width**-0.5, rngs=rngs)
    self.v = Linear((width, width), into, width**-0.5, rngs=rngs)
    self.out = Linear((width, width), out, std, rngs=rngs)
    self.mlp_norm = LayerNorm(width, config.epsilon)
    self.up = Linear((width, hidden), ("embed", "mlp"), (2 * width) ** -0.5, rngs=rngs)
    self.down = Linear((hidden, width), ("mlp", "embed"), std, rngs=rngs)

  def __call__(self, x_BLE: jax.Array) -> jax.Array:
    x_BLE = x_BLE + self.attend(self.attention_norm(x_BLE))
    hidden = self.up(self.mlp_norm(x_BLE))
    if self.activation == "quick_gelu":
      hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
    else:
      hidden = jax.nn.gelu(hidden, approximate=False)
    return x_BLE + self.down(hidden)

  def attend(self, h_BLE: jax.Array) -> jax.Array:
    """Attention of each token to itself and those before; the logits in float32."""
    q, k, v = (
      einops.rearrange(linear(h_BLE), "b l (a k) -> b a l k", a=self.heads)
      for linear in (self.q, self.k, self.v)
    )
    asked = precision.of(q, k, v)
    logits = jnp.einsum(
      "balk,bamk->balm", q, k, precision=asked, preferred_element_type=jnp.float32
    )
    before = np.tril(np.ones(logits.shape[-2:], bool))[None, None]
    logits = jnp.where(before, logits * q.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("balm,bamk->balk", weights, v, precision=asked)
    return self.out(einops.rearrange(out, "b a l k -> b l (a k)"))


class ClipEncoder(nnx.Module):
  """Token ids in, one vector a token out. Holds parameters only.

  Args:
    config: sizes.
    rngs: for CLIP's own initialisation.
  """

  def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
    self.config = config

    def draw(std: float, *shape: int) -> jax.Array:
      return std * jax.random.normal(rngs.params(), shape, jnp.float32)

    vocabulary, positions, width = config.vocabulary, config.positions, config.width
    self.embedding = nnx.Param(
      draw(0.02, vocabulary, width), axes=("vocabulary", "embed")
    )
    self.positions = nnx.Param(draw(0.01, positions, width), axes=(None, "embed"))
    keys = jax.random.split(rngs.params(), config.depth)
    self.blocks = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    self.norm = LayerNorm(width, config.epsilon)

  def __call__(
    self, ids_BL: jax.Array, mask_BL: jax.Array | None = None, *, dtype=jnp.float32
  ) -> jax.Array:
    """Encodes texts.

    Args:
      ids_BL: int32 ids, at most `positions` a text.
      mask_BL: not used, as in latent diffusion: padding follows the text.
      dtype: of the matrix products.

    Returns:
      `(B, L, E)` in `dtype`, padding included.
    """
    x_BLE = jnp.take(self.embedding[...], ids_BL, axis=0)
    x_BLE = (x_BLE + self.positions[...][None, : ids_BL.shape[1]]).astype(dtype)
    x_BLE, _ = jax.lax.scan(lambda x, block: (block(x), None), x_BLE, self.blocks)
    return self.norm(x_BLE)
