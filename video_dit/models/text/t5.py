"""The encoder of T5 v1.1, exactly: Raffel et al. 2020 (arXiv:1910.10683), section 2.1.

Version 1.1 has gated GELU (the tanh form) and no weights shared with an output layer. All
T5 have root-mean-square norms before each part, no biases, unscaled attention logits, and
one table of relative position biases that every layer adds. UMT5 (Chung et al. 2023,
arXiv:2304.09151) is the same with a table for each layer.
"""

import dataclasses

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config
from video_dit.parallel import precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
  """Sizes of an encoder.

  Attributes:
    vocabulary: number of ids.
    width, depth, heads, head_size, mlp_width: T5's d_model, num_layers, num_heads, d_kv
      and d_ff.
    buckets, max_distance: of relative positions.
    shared_bias: one table of position biases for all layers (T5), or one each (UMT5).
    epsilon: of the norms.
  """

  vocabulary: int
  width: int
  depth: int
  heads: int
  head_size: int
  mlp_width: int
  buckets: int = 32
  max_distance: int = 128
  shared_bias: bool = True
  epsilon: float = 1e-6

  @classmethod
  def of(cls, text: config.Text, vocabulary: int) -> "T5Config":
    """The sizes that a config asks for."""
    names = ("width", "depth", "heads", "head_size", "mlp_width", "buckets")
    sizes = {name: getattr(text, name) for name in (*names, "max_distance")}
    return cls(vocabulary=vocabulary, **sizes)


class Matrix(nnx.Module):
  """`x @ kernel`, drawn from a normal distribution with the given deviation."""

  def __init__(
    self, shape: tuple[int, int], axes: tuple[str, str], std: float, *, rngs: nnx.Rngs
  ):
    kernel = std * jax.random.normal(rngs.params(), shape, jnp.float32)
    self.kernel = nnx.Param(kernel, axes=axes)

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.kernel[...].astype(x.dtype)
    return jnp.dot(x, kernel, precision=precision.of(x, kernel))


class RMSNorm(nnx.Module):
  """Divides by the root mean square, in float32, and scales."""

  def __init__(self, width: int, epsilon: float):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((width,), jnp.float32), axes=("embed",))

  def __call__(self, x_BLE: jax.Array) -> jax.Array:
    h = x_BLE.astype(jnp.float32)
    h *= jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + self.epsilon)
    return (h * self.scale[...][None, None]).astype(x_BLE.dtype)


def _bias_table(config: T5Config, rngs: nnx.Rngs) -> nnx.Param:
  table = jax.random.normal(rngs.params(), (config.buckets, config.heads), jnp.float32)
  return nnx.Param(config.width**-0.5 * table, axes=("buckets", "heads"))


class Block(nnx.Module):
  """Self-attention and gated MLP, each added to what came in."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    width, hidden = config.width, config.mlp_width
    inner = config.heads * config.head_size
    self.heads = config.heads
    # T5's own deviations. The logits are not scaled: the queries' weights are instead.
    shape, axes = (width, inner), ("embed", "heads")
    self.attention_norm = RMSNorm(width, config.epsilon)
    self.q = Matrix(shape, axes, (width * config.head_size) ** -0.5, rngs=rngs)
    self.k = Matrix(shape, axes, width**-0.5, rngs=rngs)
    self.v = Matrix(shape, axes, width**-0.5, rngs=rngs)
    self.out = Matrix(shape[::-1], axes[::-1], inner**-0.5, rngs=rngs)
    self.mlp_norm = RMSNorm(width, config.epsilon)
    self.gate = Matrix((width, hidden), ("embed", "mlp"), width**-0.5, rngs=rngs)
    self.up = Matrix((width, hidden), ("embed", "mlp"), width**-0.5, rngs=rngs)
    self.down = Matrix((hidden, width), ("mlp", "embed"), hidden**-0.5, rngs=rngs)
    if not config.shared_bias:
      self.position_bias = _bias_table(config, rngs)

  def __call__(self, x_BLE: jax.Array, bias_BALL: jax.Array) -> jax.Array:
    x_BLE = x_BLE + self.attend(self.attention_norm(x_BLE), bias_BALL)
    h_BLE = self.mlp_norm(x_BLE)
    hidden = jax.nn.gelu(self.gate(h_BLE), approximate=True) * self.up(h_BLE)
    return x_BLE + self.down(hidden)

  def attend(self, h_BLE: jax.Array, bias_BALL: jax.Array) -> jax.Array:
    """Attention among the tokens of a caption; the logits in float32."""
    q, k, v = (
      einops.rearrange(matrix(h_BLE), "b l (a k) -> b a l k", a=self.heads)
      for matrix in (self.q, self.k, self.v)
    )
    asked = precision.of(q, k, v)
    logits = jnp.einsum(
      "balk,bamk->balm", q, k, precision=asked, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits + bias_BALL, axis=-1).astype(v.dtype)
    out = jnp.einsum("balm,bamk->balk", weights, v, precision=asked)
    return self.out(einops.rearrange(out, "b a l k -> b l (a k)"))


class T5Encoder(nnx.Module):
  """Token ids in, one vector a token out. Holds parameters only.

  Args:
    config: sizes.
    rngs: for T5's own initialisation, under which activations are of order 1.
  """

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.config = config
    embedding = jax.random.normal(
      rngs.params(), (config.vocabulary, config.width), jnp.float32
    )
    self.embedding = nnx.Param(embedding, axes=("vocabulary", "embed"))
    if config.shared_bias:
      self.position_bias = _bias_table(config, rngs)
    keys = jax.random.split(rngs.params(), config.depth)
    self.blocks = jax.vmap(lambda key: Block(config, rngs=nnx.Rngs(key)))(keys)
    self.norm = RMSNorm(config.width, config.epsilon)

  def __call__(
    self, ids_BL: jax.Array, mask_BL: jax.Array, *, dtype=jnp.float32
  ) -> jax.Array:
    """Encodes captions.

    Args:
      ids_BL: int32 ids.
      mask_BL: true at a caption's tokens, false at padding, which none attends to.
      dtype: of the matrix products.

    Returns:
      `(B, L, E)` in `dtype`; values at padding are meaningless.
    """
    x_BLE = jnp.take(self.embedding[...], ids_BL, axis=0).astype(dtype)
    buckets_LL = jnp.asarray(
      relative_buckets(ids_BL.shape[1], self.config.buckets, self.config.max_distance)
    )
    mask_B1L = mask_BL.astype(bool)[:, None, None, :]

    def bias(table) -> jax.Array:
      bias_LLA = jnp.take(table[...].astype(jnp.float32), buckets_LL, axis=0)
      bias_ALL = einops.rearrange(bias_LLA, "l m a -> a l m")
      return jnp.where(mask_B1L, bias_ALL[None], jnp.finfo(jnp.float32).min)

    shared = bias(self.position_bias) if self.config.shared_bias else None

    def body(x_BLE, block: Block):
      return block(x_BLE, bias(block.position_bias) if shared is None else shared), None

    x_BLE, _ = jax.lax.scan(body, x_BLE, self.blocks)
    return self.norm(x_BLE)


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
  """Buckets of the distances between tokens, `(L, L)` int32: query, then key.

  Half of the buckets are for keys after the query. Of each half, one half is for single
  distances, and the rest grow logarithmically up to `max_distance`.
  """
  places = np.arange(length)
  return bucket(places[None, :] - places[:, None], buckets, max_distance)


def bucket(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
  """Bucket of each distance, key minus query, int32."""
  half = buckets // 2
  exact = half // 2
  far = np.maximum(np.abs(distance), exact) / exact
  far = exact + (np.log(far) / np.log(max_distance / exact) * (half - exact)).astype(int)
  near = np.where(np.abs(distance) < exact, np.abs(distance), np.minimum(far, half - 1))
  return (near + half * (distance > 0)).astype(np.int32)
