"""Attention within segments by one kernel of ours, or by PyTorch, on the device there is.

`attention.py` starts a process of this for each side: `torch`, or one of our kernels.

PyTorch takes its variable-length flash attention (`varlen_attn`) on a GPU; on a CPU,
where that does not run, its scaled_dot_product_attention, a segment after the other.
"""

from collections.abc import Callable
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all sides do.

  Attributes:
    lengths: of the segments of one row.
    heads: of queries, keys and values.
    size: of a head.
    dtype: float32 or bfloat16.
    repeats: runs of each; the least counts.
  """

  lengths: tuple[int, ...]
  heads: int
  size: int
  dtype: str
  repeats: int

  @property
  def flops(self) -> float:
    """Of a forward pass: two products of the pairs inside segments."""
    pairs = float(sum(length**2 for length in self.lengths))
    return 4 * pairs * self.heads * self.size

  def arrays(self) -> list[np.ndarray]:
    """Queries, keys, values and the output's cotangent, `(N, A, K)` float32."""
    rng = np.random.default_rng(0)
    shape = (sum(self.lengths), self.heads, self.size)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(4)]


def ours(kernel: str, settings: Settings, folder: pathlib.Path) -> dict[str, float]:
  """Seconds of the forward pass, and of it with the backward pass."""
  import jax
  import jax.numpy as jnp

  from video_dit.parallel import local

  numbers = np.repeat(np.arange(len(settings.lengths)) + 1, settings.lengths)
  segments = jnp.asarray(numbers[None], jnp.int32)
  given = [jnp.asarray(x[None], settings.dtype) for x in settings.arrays()]

  def attend(q, k, v):
    return local.local_attention(q, k, v, segments, segments, kernel=kernel)[0]

  def both(q, k, v, dout):
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(dout)

  found = {}
  for name, run, arguments in (
    ("forward", jax.jit(attend), given[:3]),
    ("both", jax.jit(both), given),
  ):
    result = jax.block_until_ready(run(*arguments))
    found[name] = _least(
      settings, lambda r=run, a=arguments: jax.block_until_ready(r(*a))
    )
  _keep(folder, kernel, [np.asarray(x[0], np.float32) for x in result])
  return found


def theirs(settings: Settings, folder: pathlib.Path) -> dict[str, float]:
  """The same of PyTorch's."""
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = getattr(torch, settings.dtype)
  given = [torch.tensor(x, device=device, dtype=dtype) for x in settings.arrays()]
  q, k, v = (x.requires_grad_() for x in given[:3])
  attend = _varlen(settings) if device == "cuda" else _one_by_one(settings)

  def wait():
    if device == "cuda":
      torch.cuda.synchronize()

  def forward():
    with torch.no_grad():
      attend(q, k, v)
    wait()

  def both():
    out = attend(q, k, v)
    gradients = torch.autograd.grad(out, (q, k, v), given[3])
    wait()
    return [out.detach(), *gradients]

  forward()
  result = both()
  found = {"forward": _least(settings, forward), "both": _least(settings, both)}
  _keep(folder, "torch", [x.float().cpu().numpy() for x in result])
  return found


def _varlen(settings: Settings) -> Callable:
  import torch
  from torch.nn.attention.varlen import varlen_attn

  ends = np.cumsum((0, *settings.lengths))
  ends = torch.tensor(ends, device="cuda", dtype=torch.int32)
  most = max(settings.lengths)
  return lambda q, k, v: varlen_attn(q, k, v, ends, ends, most, most)


def _one_by_one(settings: Settings) -> Callable:
  import torch

  def attend(q, k, v):
    cut = (x.transpose(0, 1).split(settings.lengths, 1) for x in (q, k, v))
    attention = torch.nn.functional.scaled_dot_product_attention
    return torch.cat([attention(*part) for part in zip(*cut, strict=True)], 1)

  return lambda q, k, v: attend(q, k, v).transpose(0, 1)


def _least(settings: Settings, run: Callable) -> float:
  seconds = []
  for _ in range(settings.repeats):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def _keep(folder: pathlib.Path, name: str, arrays: list[np.ndarray]) -> None:
  np.savez(folder / f"{name}.npz", *arrays)


def difference(folder: pathlib.Path, name: str, other: str) -> float:
  """The largest difference of output and gradients, over the largest of each."""
  with np.load(folder / f"{name}.npz") as mine, np.load(folder / f"{other}.npz") as its:
    pairs = [(mine[key], its[key]) for key in mine.files]
  return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def main() -> None:
  """Side, folder and settings to seconds as JSON."""
  name, folder, text = sys.argv[1:]
  settings = Settings(**json.loads(text))
  path = pathlib.Path(folder)
  run = theirs(settings, path) if name == "torch" else ours(name, settings, path)
  print(json.dumps(run))


if __name__ == "__main__":
  main()
