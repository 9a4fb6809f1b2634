"""Layers of the transformer: named linear maps, norms, time embedding."""

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit.parallel import precision
from video_dit.parallel.local import on_gpu, one_cpu


class Linear(nnx.Module):
  """`x @ kernel + bias`: parameters float32, product in the dtype of `x`.

  The form depends on the device: a TPU chooses layouts freely, while the compilers for
  CPU and GPU copy operands of products of more than two axes that are not in their order.
  """

  def __init__(
    self,
    num_in: int,
    num_out: int,
    axes: tuple[str | None, str | None],
    *,
    zero: bool = False,
    bias: bool = True,
    rngs: nnx.Rngs,
  ):
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.xavier_uniform()
    self.kernel = nnx.Param(
      init(rngs.params(), (num_in, num_out), jnp.float32), axes=axes
    )
    self.bias = (
      nnx.Param(jnp.zeros((num_out,), jnp.float32), axes=axes[1:]) if bias else None
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    flat = x.reshape(-1, x.shape[-1]) if one_cpu() else x
    y = _dot(flat, self.kernel[...])
    if self.bias is not None:
      bias = self.bias[...].astype(x.dtype)
      y += jnp.expand_dims(bias, range(y.ndim - 1))
    return y.reshape(*x.shape[:-1], -1)

  def to_heads(self, x_RND: jax.Array, heads: int, parts: int = 1) -> list[jax.Array]:
    """The same, split into heads, and each head into parts, as queries, keys and values.

    A product that returns heads directly lets a TPU keep a head's numbers in lanes. Split
    from the full width, tokens end up there, and each use by a kernel is a copy; so is a
    part that is split from a product of all.

    Returns:
      The parts, each `(R, N, A, K)`, laid out with heads before tokens on TPU.
    """
    if one_cpu():
      y = einops.rearrange(self(x_RND), "r n (a p k) -> r n a p k", a=heads, p=parts)
      # The gradient of a split is one array; that of slices is a sum of padded ones.
      return [part.squeeze(3) for part in jax.lax.split(y, (1,) * parts, axis=3)]
    if on_gpu():
      return [
        einops.rearrange(y, "r n (a k) -> r n a k", a=heads)
        for y in self._parts(x_RND, heads, parts)
      ]
    kernels = einops.rearrange(self.kernel[...], "d (a p k) -> p d a k", a=heads, p=parts)
    found = [_einsum("rnd,dak->rank", x_RND, kernel) for kernel in kernels]
    if self.bias is not None:
      shape = "(a p k) -> p 1 a 1 k"
      biases = einops.rearrange(self.bias[...], shape, a=heads, p=parts)
      found = [y + b.astype(y.dtype) for y, b in zip(found, biases, strict=True)]
    return [y.swapaxes(1, 2) for y in found]

  def _parts(self, x_RND: jax.Array, heads: int, parts: int) -> list[jax.Array]:
    """A product for each part of all heads, `(R, N, A K)`, as a GPU's kernel reads it."""
    cut = {"a": heads, "p": parts}
    kernels = einops.rearrange(self.kernel[...], "d (a p k) -> p d (a k)", **cut)
    found = [_dot(x_RND, kernel) for kernel in kernels]
    if self.bias is not None:
      biases = einops.rearrange(self.bias[...], "(a p k) -> p 1 1 (a k)", **cut)
      found = [y + b.astype(y.dtype) for y, b in zip(found, biases, strict=True)]
    return found

  def from_heads(self, x_RNAK: jax.Array) -> jax.Array:
    """The same for heads concatenated side by side."""
    if one_cpu() or on_gpu():
      return self(einops.rearrange(x_RNAK, "r n a k -> r n (a k)"))
    heads = x_RNAK.shape[2]
    kernel = einops.rearrange(self.kernel[...], "(a k) d -> a k d", a=heads)
    y = _einsum("rnak,akd->rnd", x_RNAK, kernel)
    return y if self.bias is None else y + self.bias[...].astype(y.dtype)[None, None]


def _dot(x: jax.Array, kernel: jax.Array) -> jax.Array:
  kernel = kernel.astype(x.dtype)
  return jnp.dot(x, kernel, precision=precision.of(x, kernel))


def _einsum(form: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
  kernel = kernel.astype(x.dtype)
  return jnp.einsum(form, x, kernel, precision=precision.of(x, kernel))


class HeadNorm(nnx.Module):
  """Root-mean-square norm of each head of queries or keys (QK-norm, Dehghani 2023)."""

  def __init__(self, size: int, epsilon: float = 1e-6):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((size,), jnp.float32), axes=("head",))

  def __call__(self, x_RNAK: jax.Array) -> jax.Array:
    h = x_RNAK.astype(jnp.float32)
    h *= jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + self.epsilon)
    return (h * self.scale[...][None, None, None]).astype(x_RNAK.dtype)


def layer_norm(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
  """Layer norm without parameters, in float32."""
  h = x.astype(jnp.float32)
  h -= h.mean(-1, keepdims=True)
  return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), -1, keepdims=True) + epsilon)


def sinusoid(time: jax.Array, size: int) -> jax.Array:
  """Embeds times in [0, 1] as `(..., size)` [cos, sin], as DiT embeds 1000 t."""
  frequencies = np.exp(-np.log(10_000.0) * np.arange(size // 2) / (size // 2))
  scale = (1000.0 * frequencies).astype(np.float32)
  angle = time.astype(jnp.float32)[..., None] * np.expand_dims(
    scale, tuple(range(time.ndim))
  )
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def fourier(positions_RN3: jax.Array, count: int) -> jax.Array:
  """Fourier features `(R, N, 6 count)` of times, rows and columns.

  Wavelengths halve from 32 tokens down (Tancik et al., 2020, arXiv:2006.10739). Rotary
  attention knows only offsets; these tell where in its clip a token lies.
  """
  waves = (2 * np.pi / 32 * 2.0 ** np.arange(count)).astype(np.float32)
  angle = positions_RN3[..., None] * waves[None, None, None]
  features = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
  return einops.rearrange(features, "r n three f -> r n (three f)")
