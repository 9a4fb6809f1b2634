"""Wan 2.1's transformer over packed rows (Wan team, 2025, arXiv:2503.20314).

It differs from this project's own in five ways. One projection of the time makes the
modulation of all blocks, each adding a table of its own. Queries and keys are normed over
all heads at once. The norm before cross-attention has weights. Captions pass an MLP, and
count as zero-padded to one length; the padding is attended to. And only the rotation
tells a token where it is.

The two halves of a head are rotated as pairs, where the published weights pair
neighbours: the reader (`interop.wan_dit`) reorders their channels, and every score stays
the same.
"""

import einops
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit.models.dit.layers import Linear, layer_norm
from video_dit.models.dit.model import Row, self_attention, stream, through, whole
from video_dit.parallel import stripes
from video_dit.parallel.filled_attention import filled_attention, log_fill
from video_dit.parallel.partition import constrain


class AllHeadsNorm(nnx.Module):
  """Root-mean-square norm of queries or keys over all heads together."""

  def __init__(self, width: int, epsilon: float):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((width,), jnp.float32), axes=("heads",))

  def __call__(self, x_RNAK: jax.Array) -> jax.Array:
    h = x_RNAK.astype(jnp.float32)
    square = jnp.mean(jnp.square(h), (-2, -1), keepdims=True)
    scale = einops.rearrange(
      self.scale[...].astype(jnp.float32), "(a k) -> 1 1 a k", a=h.shape[2]
    )
    return (h * jax.lax.rsqrt(square + self.epsilon) * scale).astype(x_RNAK.dtype)


class AffineNorm(nnx.Module):
  """Layer norm with weights, in float32."""

  def __init__(self, width: int, epsilon: float):
    self.epsilon = epsilon
    self.scale = nnx.Param(jnp.ones((width,), jnp.float32), axes=("embed",))
    self.bias = nnx.Param(jnp.zeros((width,), jnp.float32), axes=("embed",))

  def __call__(self, x_RND: jax.Array) -> jax.Array:
    scale, bias = self.scale[...][None, None], self.bias[...][None, None]
    return (layer_norm(x_RND, self.epsilon) * scale + bias).astype(x_RND.dtype)


class WanBlock(nnx.Module):
  """Self-attention, cross-attention to zero-padded captions, and MLP."""

  def __init__(self, dit: config_lib.DiT, *, rngs: nnx.Rngs):
    width, hidden = dit.width, dit.mlp_width
    self.heads, self.epsilon = dit.heads, dit.norm_epsilon
    self.modulation = _table(6, width, rngs)
    self.qkv = Linear(width, 3 * width, ("embed", "heads"), rngs=rngs)
    self.q_norm, self.k_norm = (AllHeadsNorm(width, self.epsilon) for _ in range(2))
    self.out = Linear(width, width, ("heads", "embed"), rngs=rngs)
    self.text_norm = AffineNorm(width, self.epsilon)
    self.text_q = Linear(width, width, ("embed", "heads"), rngs=rngs)
    self.text_kv = Linear(width, 2 * width, ("embed", "heads"), rngs=rngs)
    self.text_q_norm, self.text_k_norm = (
      AllHeadsNorm(width, self.epsilon) for _ in range(2)
    )
    self.text_out = Linear(width, width, ("heads", "embed"), rngs=rngs)
    self.up = Linear(width, hidden, ("embed", "mlp"), rngs=rngs)
    self.down = Linear(hidden, width, ("mlp", "embed"), rngs=rngs)

  def __call__(self, x_RND, condition, text_RLD, row: "WanRow"):
    table = einops.rearrange(self.modulation[...], "six d -> 1 1 (six d)")
    shift1, scale1, gate1, shift2, scale2, gate2 = row.modulations(
      (condition + table).astype(x_RND.dtype)
    )
    h = row.modulate(x_RND, shift1, scale1, self.epsilon)
    x_RND = row.add(x_RND, gate1, self_attention(self, h, row))
    h = whole(self.text_norm(x_RND))
    x_RND = x_RND + stream(self.attend_text(h, text_RLD, row))
    h = row.modulate(x_RND, shift2, scale2, self.epsilon)
    h = constrain(jax.nn.gelu(self.up(h)), "rows", "tokens", "mlp")
    return stream(row.add(x_RND, gate2, self.down(h)))

  @jax.named_scope("cross_attention")
  def attend_text(self, h_RND: jax.Array, text_RLD: jax.Array, row: "WanRow"):
    """Cross-attention to the caption of each token's segment and its padding."""
    (q,) = self.text_q.to_heads(h_RND, self.heads)
    k, v = self.text_keys(text_RLD)
    fill_k, fill_v = self.text_keys(row.fill_11D.astype(text_RLD.dtype))
    out = filled_attention(
      self.text_q_norm(q),
      k,
      v,
      fill_k[0, 0],
      fill_v[0, 0],
      row.log_fill_RN,
      row.segments,
      row.text_segments,
      kernel=row.kernel,
    )
    return self.text_out.from_heads(out)

  def text_keys(self, text_RLD: jax.Array) -> list[jax.Array]:
    """Keys and values of caption tokens."""
    k, v = self.text_kv.to_heads(text_RLD, self.heads, parts=2)
    return [self.text_k_norm(k), v]


class WanRow(Row):
  """What every block reads of the rows, and the padding of captions."""

  def __init__(self, *arguments, text_length: int, fill_11D: jax.Array):
    super().__init__(*arguments)
    count = self.members_RNS.shape[2]
    self.fill_11D = fill_11D
    self.log_fill_RN = log_fill(self.text_segments, self.segments, count, text_length)


class Wan(nnx.Module):
  """Noisy patches, times and captions in; the velocity of each patch out."""

  def __init__(
    self, dit: config_lib.DiT, patch_dim: int, text_width: int, *, rngs: nnx.Rngs
  ):
    self.dit, self.text_width = dit, text_width
    width = dit.width
    self.embed = Linear(patch_dim, width, ("patch", "embed"), rngs=rngs)
    self.time1 = Linear(dit.frequencies, width, ("freq", "embed"), rngs=rngs)
    self.time2 = Linear(width, width, (None, "embed"), rngs=rngs)
    self.modulation = Linear(width, 6 * width, ("embed", "mlp"), rngs=rngs)
    self.text1 = Linear(text_width, width, ("text", "embed"), rngs=rngs)
    self.text2 = Linear(width, width, (None, "embed"), rngs=rngs)
    # A stack is one block whose every parameter has a leading layer axis.
    keys = jax.random.split(rngs.params(), dit.depth)
    self.blocks = jax.vmap(lambda key: WanBlock(dit, rngs=nnx.Rngs(key)))(keys)
    self.last = _table(2, width, rngs)
    self.head = Linear(width, patch_dim, ("embed", "patch"), zero=True, rngs=rngs)

  def __call__(
    self,
    patches_RNP: jax.Array,
    times: jax.Array,
    segments_RN: jax.Array,
    positions_RN3: jax.Array,
    text_RLE: jax.Array,
    text_segments_RL: jax.Array,
    *,
    dtype: jax.typing.DTypeLike = jnp.bfloat16,
    num_segments: int | None = None,
    text_length: int | None = None,
  ) -> jax.Array:
    """Predicts the velocity; result and other arguments as `DiT`'s.

    A time of 1 is Wan's timestep 1000.

    Args:
      text_length: length that captions count as zero-padded to; None takes the config's,
        0 pads nothing.
    """
    per_token = num_segments is not None
    count = num_segments if num_segments is not None else times.shape[1]
    deal = stripes.Deal(self.dit.context, self.dit.heads)
    patches_RNP, segments_RN, positions_RN3 = map(
      deal.tokens, (patches_RNP, segments_RN, positions_RN3)
    )
    times = deal.tokens(times) if per_token else times
    text = self.embed_text(text_RLE.astype(dtype))
    row = WanRow(
      segments_RN,
      text_segments_RL,
      positions_RN3,
      self.dit,
      count,
      per_token,
      text_length=self.dit.text_length if text_length is None else text_length,
      fill_11D=self.embed_text(jnp.zeros((1, 1, self.text_width), jnp.float32)),
    )
    x = stream(self.embed(constrain(patches_RNP.astype(dtype), "rows", "tokens", None)))
    # Times stay float32, as the peers keep them even in bfloat16 runs: there are few.
    time = self.time1(timestep_embedding(times, self.dit.frequencies))
    time = self.time2(jax.nn.silu(time))
    condition = self.modulation(jax.nn.silu(time))
    # Else the partitioner splits the width of so small an array, not its rows.
    along = "tokens" if per_token else None
    time = constrain(time, "rows", along, None)
    condition = constrain(condition, "rows", along, None)
    text = constrain(text, "rows", None, None)

    x = through(self.blocks, x, (condition, text, row), self.dit)

    last = einops.rearrange(self.last[...], "two d -> two 1 1 d")
    shift, scale = time + last[0], time + last[1]
    x = row.modulate(x, shift, scale, self.dit.norm_epsilon, jnp.float32)
    return deal.back(constrain(self.head(x), "rows", "tokens", None))

  def embed_text(self, text_RLE: jax.Array) -> jax.Array:
    """The MLP that captions pass, `(R, L, D)`."""
    return self.text2(jax.nn.gelu(self.text1(text_RLE)))


def _table(count: int, width: int, rngs: nnx.Rngs) -> nnx.Param:
  values = jax.random.normal(rngs.params(), (count, width), jnp.float32)
  # Named by its width alone: it is not a matrix, and gets no weight decay.
  return nnx.Param(values / width**0.5, axes=("embed",))


def timestep_embedding(times: jax.Array, size: int) -> jax.Array:
  """Embeds 1000 times as `(..., size)` [cos, sin], exact to float32.

  The angle of the highest frequency reaches 1000, where float32 is off by 3e-5. So turns
  are computed in parts that are exact, and whole turns are dropped before the last
  addition. A time that is the float32 of a whole step out of 1000 counts as that step, so
  that here, other than in `layers.sinusoid`, no gradient passes to such a time.

  Args:
    times: in [0, 1], of any shape.
    size: of the embedding, even.
  """
  turns = 10_000.0 ** (-np.arange(size // 2) / (size // 2)) / (2 * np.pi)
  high = np.floor(turns * 2**14) / 2**14
  middle = np.floor((turns - high) * 2**26) / 2**26
  along = tuple(range(times.ndim))
  parts = [
    np.expand_dims(part.astype(np.float32), along)
    for part in (high, middle, turns - high - middle, turns)
  ]
  # 12 bits of the time times 1000 are exact in float32, and so is what is left.
  times = times.astype(jnp.float32)
  coarse = jnp.floor(times * 4096) / 4096
  step = jnp.floor(coarse * 1000)
  rest = (coarse * 1000 - step) + (times - coarse) * 1000
  whole = jnp.abs(rest - jnp.round(rest)) < 2**-13
  rest = jnp.where(whole, jnp.round(rest), rest)[..., None]
  step = step[..., None]
  first = step * parts[0]
  turn = (first - jnp.floor(first)) + step * parts[1] + step * parts[2] + rest * parts[3]
  angle = 2 * np.pi * turn
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
