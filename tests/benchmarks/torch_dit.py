"""The same diffusion transformer in plain PyTorch, as its users write it.

For `tests/benchmarks/step.py` alone, which reads our weights into it and compares
predictions. Attention is `scaled_dot_product_attention` under a mask of segments; on
CUDA with bfloat16 it is `varlen_attn`, flash attention over the segments end to end.
"""

import dataclasses

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F


@dataclasses.dataclass
class Rows:
  """What every block reads of the rows; made once a batch.

  Attributes:
    at: column of each token's segment, `(R, N, 1)`.
    seen: which keys a query sees, `(R, 1, N, N)`; text_seen: of the text.
    cosine, sine: of the rotary angles, `(R, N, 1, K / 2)`.
    place: Fourier features of the positions; shares: of each caption token in the
      mean of its segment, `(R, S, L)`.
    ends, text_ends: where segments end, for `varlen_attn`; longest: of either.
    flat, text_flat: places of the tokens that are no padding, over all rows.
  """

  at: torch.Tensor
  seen: torch.Tensor
  text_seen: torch.Tensor
  cosine: torch.Tensor
  sine: torch.Tensor
  place: torch.Tensor
  shares: torch.Tensor
  ends: torch.Tensor | None = None
  text_ends: torch.Tensor | None = None
  flat: torch.Tensor | None = None
  text_flat: torch.Tensor | None = None
  longest: tuple[int, int] = (0, 0)


def rows(batch: dict[str, np.ndarray], rope, fourier, device, varlen: bool) -> Rows:
  """Lays out a batch for the model.

  Args:
    batch: `segments`, `text_segments` and `tokens` of a packed batch.
    rope: cosines and sines `(R, N, K / 2)`.
    fourier: features `(R, N, 30)`.
    device: of the tensors.
    varlen: whether to prepare `varlen_attn`.
  """
  segments = torch.from_numpy(batch["segments"]).long()
  text = torch.from_numpy(batch["text_segments"]).long()
  numbers = torch.arange(1, batch["tokens"].shape[1] + 1)
  members = (text[:, None] == numbers[None, :, None]).float()
  seen = (segments[:, :, None] == segments[:, None])[:, None]
  text_seen = (segments[:, :, None] == text[:, None]) & (segments > 0)[:, :, None]
  # Softmax over nothing is not a number: padding looks at the text, and counts nowhere.
  text_seen |= ~text_seen.any(-1, keepdim=True)
  made = Rows(
    at=(segments - 1).clamp(min=0)[..., None],
    seen=seen,
    text_seen=text_seen[:, None],
    cosine=torch.from_numpy(rope[0])[:, :, None],
    sine=torch.from_numpy(rope[1])[:, :, None],
    place=torch.from_numpy(fourier),
    shares=members / members.sum(-1, keepdim=True).clamp(min=1),
  )
  if varlen:
    lengths = (segments[:, None] == numbers[None, :, None]).sum(-1).flatten()
    text_lengths = members.sum(-1).long().flatten()[lengths > 0]
    lengths = lengths[lengths > 0]
    made.ends = F.pad(lengths.cumsum(0), (1, 0)).int()
    made.text_ends = F.pad(text_lengths.cumsum(0), (1, 0)).int()
    made.flat = (segments > 0).flatten().nonzero()[:, 0]
    made.text_flat = (text > 0).flatten().nonzero()[:, 0]
    made.longest = int(lengths.max()), int(text_lengths.max())
  for field in dataclasses.fields(made):
    value = getattr(made, field.name)
    if isinstance(value, torch.Tensor):
      setattr(made, field.name, value.to(device))
  return made


class HeadNorm(nn.Module):
  """Root-mean-square norm of each head."""

  def __init__(self, size: int):
    super().__init__()
    self.scale = nn.Parameter(torch.ones(size))

  def forward(self, x):
    """Norms the last axis."""
    return F.rms_norm(x, (x.shape[-1],), self.scale.to(x.dtype), 1e-6)


class Block(nn.Module):
  """Self-attention, cross-attention and MLP under adaLN-Zero."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads, size = heads, width // heads
    self.modulation = nn.Linear(width, 6 * width)
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.q_norm, self.k_norm = HeadNorm(size), HeadNorm(size)
    self.text_q, self.text_kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
    self.text_q_norm, self.text_k_norm = HeadNorm(size), HeadNorm(size)
    self.text_out = nn.Linear(width, width)
    self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x, condition, text, rows: Rows):
    """One block; `x` `(R, N, D)`, `condition` `(R, S, D)`, `text` `(R, L, D)`."""
    table = _to_tokens(self.modulation(condition), rows)
    shift1, scale1, gate1, shift2, scale2, gate2 = table.chunk(6, -1)
    h = _norm(x) * (1 + scale1) + shift1
    q, k, v = self.qkv(h).unflatten(-1, (self.heads, -1)).chunk(3, -1)
    q, k = _rotate(self.q_norm(q), rows), _rotate(self.k_norm(k), rows)
    x = x + gate1 * self.out(_attend(q, k, v, rows, of_text=False))
    q = self.text_q_norm(self.text_q(_norm(x)).unflatten(-1, (self.heads, -1)))
    k, v = self.text_kv(text).unflatten(-1, (self.heads, -1)).chunk(2, -1)
    k = self.text_k_norm(k)
    x = x + self.text_out(_attend(q, k, v, rows, of_text=True))
    h = _norm(x) * (1 + scale2) + shift2
    return x + gate2 * self.down(F.gelu(self.up(h), approximate="tanh"))


class DiT(nn.Module):
  """Noisy patches, times and captions in; the prediction for each patch out."""

  def __init__(self, width: int, depth: int, heads: int, patch_dim: int, text_width: int):
    super().__init__()
    self.embed, self.place = nn.Linear(patch_dim, width), nn.Linear(30, width)
    self.time1, self.time2 = nn.Linear(256, width), nn.Linear(width, width)
    self.text, self.text_pool = (nn.Linear(text_width, width) for _ in range(2))
    self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
    self.last, self.head = nn.Linear(width, 2 * width), nn.Linear(width, patch_dim)
    waves = 1000 * torch.exp(-9.210340371976184 * torch.arange(128) / 128)
    self.register_buffer("waves", waves, persistent=False)

  def forward(self, patches, times, text, rows: Rows):
    """Predicts `(R, N, P)`; `times` `(R, S)`."""
    x = self.embed(patches) + self.place(rows.place)
    angle = times[..., None] * self.waves
    time = self.time1(torch.cat([angle.cos(), angle.sin()], -1))
    pooled = self.text_pool(rows.shares @ text)
    condition = F.silu(self.time2(F.silu(time)) + pooled)
    text = self.text(text)
    for block in self.blocks:
      x = block(x, condition, text, rows)
    shift, scale = _to_tokens(self.last(condition), rows).chunk(2, -1)
    return self.head(_norm(x) * (1 + scale) + shift).float()


def load(model: DiT, weights: dict[str, np.ndarray]) -> None:
  """Copies our weights, by paths like `blocks/up/kernel`, layers stacked."""
  state = {}
  for path, value in weights.items():
    name = path.replace("/", ".").replace("kernel", "weight")
    stacked = path.startswith("blocks/")
    parts = enumerate(value) if stacked else [(None, value)]
    for layer, part in parts:
      key = name if layer is None else name.replace("blocks.", f"blocks.{layer}.", 1)
      part = part.T if name.endswith("weight") else part
      state[key] = torch.from_numpy(np.ascontiguousarray(part))
  model.load_state_dict(state)


def _norm(x):
  return F.layer_norm(x, (x.shape[-1],), eps=1e-6)


def _to_tokens(table, rows: Rows):
  return torch.gather(table, 1, rows.at.expand(-1, -1, table.shape[-1]))


def _rotate(x, rows: Rows):
  first, second = x.chunk(2, -1)
  cosine, sine = rows.cosine.to(x.dtype), rows.sine.to(x.dtype)
  return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _attend(q, k, v, rows: Rows, *, of_text: bool):
  if rows.ends is None:
    mask = rows.text_seen if of_text else rows.seen
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)
  from torch.nn.attention.varlen import varlen_attn

  keys = (rows.text_flat, rows.text_ends) if of_text else (rows.flat, rows.ends)
  places, ends = keys
  longest = rows.longest[1] if of_text else rows.longest[0]
  out = torch.zeros_like(q).flatten(0, 1)
  q, k, v = (
    x.flatten(0, 1)[at].to(torch.bfloat16)
    for x, at in ((q, rows.flat), (k, places), (v, places))
  )
  found = varlen_attn(q, k, v, rows.ends, ends, rows.longest[0], longest)
  out = out.to(found.dtype).index_copy(0, rows.flat, found)
  return out.unflatten(0, rows.seen.shape[0:1] + rows.seen.shape[2:3]).flatten(2)
