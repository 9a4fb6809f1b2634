"""The diffusion transformer over packed rows.

DiT's adaLN-Zero blocks (Peebles and Xie, 2023, arXiv:2212.09748) with cross-attention
to the captions that are packed beside the row. Each segment has its own time and text;
no token sees another segment. At initialisation the prediction is zero.
"""

from typing import Any, Protocol

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from video_dit import config as config_lib
from video_dit.data.batch import members
from video_dit.models.dit.layers import HeadNorm, Linear, fourier, layer_norm, sinusoid
from video_dit.models.dit.rotary import rotate, rotation
from video_dit.parallel import precision, stripes
from video_dit.parallel.attention import packed_attention
from video_dit.parallel.local import SAVED
from video_dit.parallel.partition import constrain

WAVES = 5  # Fourier features of each axis of a position


class Block(nnx.Module):
  """Self-attention, cross-attention and MLP, each added to what came in."""

  def __init__(self, dit: config_lib.DiT, *, rngs: nnx.Rngs):
    width, hidden = dit.width, dit.mlp_width
    size, self.epsilon = width // dit.heads, dit.norm_epsilon
    self.heads = dit.heads
    self.modulation = Linear(width, 6 * width, ("embed", "mlp"), zero=True, rngs=rngs)
    self.qkv = Linear(width, 3 * width, ("embed", "heads"), rngs=rngs)
    self.q_norm, self.k_norm = (HeadNorm(size, self.epsilon) for _ in range(2))
    self.out = Linear(width, width, ("heads", "embed"), rngs=rngs)
    self.text_q = Linear(width, width, ("embed", "heads"), rngs=rngs)
    self.text_kv = Linear(width, 2 * width, ("embed", "heads"), rngs=rngs)
    self.text_q_norm, self.text_k_norm = (HeadNorm(size, self.epsilon) for _ in range(2))
    self.text_out = Linear(width, width, ("heads", "embed"), zero=True, rngs=rngs)
    self.up = Linear(width, hidden, ("embed", "mlp"), rngs=rngs)
    self.down = Linear(hidden, width, ("mlp", "embed"), rngs=rngs)

  def __call__(self, x_RND, condition, text_RLD, row: "Row"):
    shift1, scale1, gate1, shift2, scale2, gate2 = row.modulations(
      self.modulation(condition)
    )
    h = row.modulate(x_RND, shift1, scale1, self.epsilon)
    x_RND = row.add(x_RND, gate1, self_attention(self, h, row))
    h = whole(layer_norm(x_RND, self.epsilon).astype(x_RND.dtype))
    x_RND = x_RND + stream(self.attend_text(h, text_RLD, row))
    h = row.modulate(x_RND, shift2, scale2, self.epsilon)
    with jax.named_scope("mlp"):
      h = constrain(jax.nn.gelu(self.up(h)), "rows", "tokens", "mlp")
      h = self.down(h)
    return stream(row.add(x_RND, gate2, h))

  @jax.named_scope("cross_attention")
  def attend_text(self, h_RND: jax.Array, text_RLD: jax.Array, row: "Row") -> jax.Array:
    """Cross-attention to the caption of each token's segment."""
    (q,) = self.text_q.to_heads(h_RND, self.heads)
    k, v = self.text_kv.to_heads(text_RLD, self.heads, parts=2)
    q, k = self.text_q_norm(q), self.text_k_norm(k)
    out = packed_attention(q, k, v, row.segments, row.text_segments, kernel=row.kernel)
    return self.text_out.from_heads(out)


class SelfAttention(Protocol):
  """The parts of a block that attend within segments."""

  heads: int
  qkv: Linear
  q_norm: Any
  k_norm: Any
  out: Linear


@jax.named_scope("self_attention")
def self_attention(block: SelfAttention, h_RND: jax.Array, row: "Row") -> jax.Array:
  """Self-attention within segments, with norms and rotation of queries and keys."""
  q, k, v = block.qkv.to_heads(h_RND, block.heads, parts=3)
  q = rotate(block.q_norm(q), *row.rotation)
  k = rotate(block.k_norm(k), *row.rotation)
  out = packed_attention(
    *(q, k, v, row.segments, row.segments), kernel=row.kernel, context=row.context
  )
  return block.out.from_heads(out)


class Row:
  """What every block reads of the rows: segments, rotations, and who is where.

  Modulations stay one per segment, and are expanded to tokens only where they are used,
  in the forward pass and again in the backward pass: six arrays of a row's size would be
  the largest thing that a block keeps.
  """

  def __init__(self, segments, text_segments, positions, dit, num_segments, per_token):
    self.segments, self.text_segments = segments, text_segments
    self.rotation = rotation(positions, dit)
    self.per_token, self.context, self.kernel = per_token, dit.context, dit.attention
    self.members_RNS = members(segments, num_segments).astype(jnp.float32)

  def to_tokens(self, x_RSD: jax.Array) -> jax.Array:
    """Gives each token its segment's value, `(R, S, D)` to `(R, N, D)`.

    A one-hot product is faster than a gather.
    """
    if x_RSD.shape[1] == 1:
      return x_RSD  # one segment a row: broadcasting does it
    one_hot = self.members_RNS.astype(x_RSD.dtype)
    asked = precision.of(one_hot, x_RSD)
    return jnp.einsum("rns,rsd->rnd", one_hot, x_RSD, precision=asked)

  def modulations(self, table: jax.Array) -> list[jax.Array]:
    """Splits the modulations, `(R, S, 6 D)` or one a token `(R, N, 6 D)`, in six.

    Returns:
      Six arrays `(R, S, D)` or `(R, N, D)`: shift, scale and gate of attention, then of
      the MLP.
    """
    tokens = "tokens" if self.per_token else None
    return jnp.split(constrain(table, "rows", tokens, None), 6, axis=-1)

  def modulate(self, x_RND, shift, scale, epsilon: float, dtype=None) -> jax.Array:
    """Norm, scale and shift; the backward pass keeps only the arguments.

    Args:
      x_RND: may be split like the stream.
      shift, scale: `(R, S, D)` of segments, or `(R, N, D)` of tokens.
      epsilon: of the norm.
      dtype: of the result; None is that of `x_RND`.

    Returns:
      `(R, N, D)`, not split.
    """

    @jax.checkpoint
    def run(x_RND, shift, scale):
      shift, scale = self._laid(shift), self._laid(scale)
      h = layer_norm(x_RND, epsilon) * (1 + scale) + shift
      return h.astype(dtype or x_RND.dtype)

    return _made_once(whole(run(x_RND, shift, scale)))

  def add(self, x_RND: jax.Array, gate: jax.Array, h_RND: jax.Array) -> jax.Array:
    """Adds gated values to the stream; the backward pass keeps only the arguments.

    Args:
      x_RND: the stream.
      gate: `(R, S, D)` of segments, or `(R, N, D)` of tokens.
      h_RND: what passes the gate.

    Returns:
      `(R, N, D)`, split like the stream.
    """

    @jax.checkpoint
    def run(x_RND, gate, h_RND):
      return x_RND + self._laid(gate).astype(x_RND.dtype) * h_RND

    return run(x_RND, gate, stream(h_RND))

  def _laid(self, table: jax.Array) -> jax.Array:
    """A modulation of segments or tokens, expanded to tokens."""
    return table if self.per_token else self.to_tokens(table)


@jax.custom_jvp
def _made_once(x: jax.Array) -> jax.Array:
  """Keeps the compiler from recomputing `x` for each tile of a product that reads it."""
  return jax.lax.optimization_barrier(x)


@_made_once.defjvp
def _made_once_jvp(primals, tangents):
  return _made_once(*primals), *tangents


class DiT(nnx.Module):
  """Noisy patches, times and captions in; the prediction for each patch out."""

  def __init__(
    self, dit: config_lib.DiT, patch_dim: int, text_width: int, *, rngs: nnx.Rngs
  ):
    self.dit = dit
    width = dit.width
    self.embed = Linear(patch_dim, width, ("patch", "embed"), rngs=rngs)
    self.place = Linear(6 * WAVES, width, ("freq", "embed"), rngs=rngs)
    self.time1 = Linear(dit.frequencies, width, ("freq", "embed"), rngs=rngs)
    self.time2 = Linear(width, width, (None, "embed"), rngs=rngs)
    self.text = Linear(text_width, width, ("text", "embed"), rngs=rngs)
    self.text_pool = Linear(text_width, width, ("text", "embed"), rngs=rngs)
    # A stack is one Block whose every parameter has a leading layer axis.
    keys = jax.random.split(rngs.params(), dit.depth)
    self.blocks = jax.vmap(lambda key: Block(dit, rngs=nnx.Rngs(key)))(keys)
    self.last = Linear(width, 2 * width, ("embed", "mlp"), zero=True, rngs=rngs)
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
  ) -> jax.Array:
    """Predicts for each patch what the config's `diffusion.prediction` names.

    Args:
      patches_RNP: noisy patches.
      times: noise levels in [0, 1], one a segment `(R, S)` or one a token `(R, N)`.
      segments_RN: segment of each token, 0 is padding.
      positions_RN3: time, row and column of each token.
      text_RLE: caption tokens of all segments.
      text_segments_RL: segment of each caption token.
      dtype: of the matrix products.
      num_segments: S where `times` are per token; else its second size.

    Returns:
      `(R, N, P)` float32.
    """
    per_token = num_segments is not None
    count = num_segments if num_segments is not None else times.shape[1]
    deal = stripes.Deal(self.dit.context, self.dit.heads)
    patches_RNP, segments_RN, positions_RN3 = map(
      deal.tokens, (patches_RNP, segments_RN, positions_RN3)
    )
    times = deal.tokens(times) if per_token else times
    row = Row(segments_RN, text_segments_RL, positions_RN3, self.dit, count, per_token)
    x = self.embed(constrain(patches_RNP.astype(dtype), "rows", "tokens", None))
    x = stream(x + self.place(fourier(positions_RN3, WAVES).astype(dtype)))

    text = text_RLE.astype(dtype)
    pooled = self.text_pool(_pool(text, text_segments_RL, count))
    pooled = row.to_tokens(pooled) if per_token else pooled
    time = self.time1(sinusoid(times, self.dit.frequencies).astype(dtype))
    condition = jax.nn.silu(self.time2(jax.nn.silu(time)) + pooled)
    # Else the partitioner splits the width of so small an array, not its rows.
    condition = constrain(condition, "rows", "tokens" if per_token else None, None)
    text = constrain(self.text(text), "rows", None, None)

    with jax.named_scope("blocks"):
      x = through(self.blocks, x, (condition, text, row), self.dit)

    shift, scale = jnp.split(self.last(condition), 2, axis=-1)
    x = row.modulate(x, shift, scale, self.dit.norm_epsilon, jnp.float32)
    return deal.back(constrain(self.head(x), "rows", "tokens", None))


def stream(x_RND: jax.Array) -> jax.Array:
  """Splits the residual stream, and what is added to it, by token over `tensor`."""
  return constrain(x_RND, "rows", "stream", None)


def whole(h_RND: jax.Array) -> jax.Array:
  """Gathers the inputs of products that `tensor` splits by head or by width."""
  return constrain(h_RND, "rows", "tokens", None)


def _pool(text_RLE: jax.Array, segments_RL: jax.Array, count: int) -> jax.Array:
  """Mean of each segment's caption tokens, `(R, S, E)`."""
  members_RLS = members(segments_RL, count).astype(jnp.float32)
  shares_RLS = members_RLS / jnp.maximum(members_RLS.sum(1, keepdims=True), 1.0)
  shares_RLS = shares_RLS.astype(text_RLE.dtype)
  asked = precision.of(shares_RLS, text_RLE)
  return jnp.einsum("rls,rle->rse", shares_RLS, text_RLE, precision=asked)


def through(blocks, x_RND: jax.Array, rest: tuple, dit: config_lib.DiT) -> jax.Array:
  """Passes the stream through a stack of blocks, `block(x, *rest)` for each in turn."""

  def body(x, block):
    return block(x, *rest), None

  body = rematerialised(body, dit.remat, looped=dit.unroll == 1)
  return jax.lax.scan(body, x_RND, blocks, unroll=min(dit.unroll, dit.depth))[0]


def rematerialised(body, policy: str, *, looped: bool = True):
  """Wraps a block so that its backward pass recomputes what the policy says.

  Where blocks do not run in a loop, the compiler must be kept from reusing what was
  computed before.
  """
  if policy == "none":
    return body
  policies = jax.checkpoint_policies
  if policy == "offload":

    def named(x, block):
      return body(checkpoint_name(x, "block"), block)

    return jax.checkpoint(
      named,
      prevent_cse=not looped,
      policy=policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["block", SAVED],
        offload_src="device",
        offload_dst="pinned_host",
      ),
    )
  attention = policies.save_only_these_names(SAVED)
  products = policies.dots_with_no_batch_dims_saveable
  chosen = {
    "block": policies.nothing_saveable,
    "attention": attention,
    "dots": policies.save_from_both_policies(products, attention),
  }
  return jax.checkpoint(body, prevent_cse=not looped, policy=chosen[policy])
