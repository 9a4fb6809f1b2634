"""Packed attention that skips blocks beside attention that only masks, in one run.

    taskset -c 1 python -m tests.benchmarks.attention --tokens=8192 --repeats=3
    python -m tests.benchmarks.attention --topologies=v5p:2x2x1,v6e:2x2x1
    python -m tests.benchmarks.attention --kernels=triton,tokamax,chunked --tokens=32768 \
        --heads=9 --repeats=20 --torch_python=/path/to/a/python/with/torch

The first compares, on the CPU, `chunked` with chunks of queries against all keys under a
mask: processor seconds of outputs and gradients, the compiler's temporary memory, and the
largest difference. The second compiles the kernels of TPU for chips that are not here
(extra `plan`). The third is for a GPU: kernels of ours, and PyTorch's
flash attention over the segments, forward and with the backward pass, in bfloat16; each
in a process of its own, with FLOP/s of the segments alone and how far results lie from
PyTorch's. (With --dtype=float32 and few tokens it runs on a CPU, too.)
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import einops
import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks import attention_sides
from video_dit.parallel.kernels import blocks, chunked, dense, splash
from video_dit.parallel.kernels.splash_sizes import choose

_TOKENS = flags.DEFINE_integer("tokens", 8192, "Of the row.")
_HEADS = flags.DEFINE_integer("heads", 2, "Of size 128.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each; the least counts.")
_KERNELS = flags.DEFINE_list("kernels", [], "Compare these with PyTorch's instead.")
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Of the comparison with PyTorch's.")
_TORCH = flags.DEFINE_string("torch_python", sys.executable, "A Python with torch.")
_TOPOLOGIES = flags.DEFINE_string("topologies", "", "Compile for these TPUs instead.")

_SHARES = (1, 1, 2, 4, 4, 8, 12, 16, 16)  # lengths of a row's segments, of 64
_CHUNK = 512


def _segments(length: int) -> np.ndarray:
  """One row of segments from a 64th to a quarter of it."""
  lengths = [length * share // 64 for share in _SHARES]
  return np.repeat(np.arange(len(lengths)) + 1, lengths)[None].astype(np.int32)


def _masked(q, k, v, segments):
  """Chunks of queries against all keys, those of other segments masked."""

  @jax.checkpoint
  def one(chunk):
    return dense.attention(chunk[0], k, v, chunk[1], segments)[0]

  cut = einops.rearrange(q, "r (c n) a k -> c r n a k", n=_CHUNK)
  of = einops.rearrange(segments, "r (c n) -> c r n", n=_CHUNK)
  return einops.rearrange(jax.lax.map(one, (cut, of)), "c r n a k -> r (c n) a k")


@jax.custom_vjp
def _skipping(q, k, v, segments):
  """`chunked` with its own backward pass."""
  return chunked.attention(q, k, v, segments, segments)[0]


def _ahead(q, k, v, segments):
  out, lse = chunked.attention(q, k, v, segments, segments)
  return out, (q, k, v, segments, out, lse)


def _back(saved, dout):
  q, k, v, segments, out, lse = saved
  delta = (out * dout).sum(-1)
  return *chunked.gradients(q, k, v, segments, segments, lse, delta, dout), None


_skipping.defvjp(_ahead, _back)


def _compare() -> None:
  segments = _segments(_TOKENS.value)
  rng = np.random.default_rng(0)
  shape = (1, _TOKENS.value, _HEADS.value, 128)
  q, k, v, dout = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(4))
  seen = (np.bincount(segments[0]).astype(float) ** 2).sum() / _TOKENS.value**2
  found = blocks.block_map(segments, segments, chunked.BLOCK, chunked.KEY_BLOCK)
  pairs = found.first_RI.size * (_TOKENS.value // chunked.KEY_BLOCK)
  print(f"squared lengths over the row's square: {seen:.3f};", end=" ")
  print(f"blocks visited: {int(found.visits)} of {pairs} ({found.visits / pairs:.3f})")
  base, wanted = 0.0, None
  for name, way in (("masks only", _masked), ("skipping", _skipping)):

    def run(q, k, v, dout, way=way):
      out, pull = jax.vjp(lambda *qkv: way(*qkv, segments), q, k, v)
      return out, *pull(dout)

    compiled = jax.jit(run).lower(q, k, v, dout).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    seconds = []
    for _ in range(_REPEATS.value):
      start = time.process_time()
      result = jax.block_until_ready(compiled(q, k, v, dout))
      seconds.append(time.process_time() - start)
    base = base or min(seconds)
    wanted = wanted or result
    worst = max(float(jnp.abs(a - b).max()) for a, b in zip(result, wanted, strict=True))
    print(
      f"{name:11} {min(seconds):8.2f} s  {base / min(seconds):5.2f}x"
      f"  {memory:8.0f} MiB  differs by {worst:.1e}"
    )


def _compile() -> None:
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  for topology in _TOPOLOGIES.value.split(","):
    chip = topologies.get_topology_desc(topology, platform="tpu").devices[0]
    here = jax.sharding.SingleDeviceSharding(chip)
    for length in (8192, 32_768, 115_200):
      for keys in (length, 1024):
        _compile_one(chip.device_kind, here, length, keys)


def _compile_one(kind: str, here, length: int, keys: int) -> None:
  def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

  heads, size = _HEADS.value, 128
  q, k = array(1, length, heads, size), array(1, keys, heads, size)
  segments, of_keys = array(1, length, dtype=jnp.int32), array(1, keys, dtype=jnp.int32)
  row = array(1, length, heads, dtype=jnp.float32)

  def ahead(*arguments):
    return splash.attention(*arguments, device=kind)

  def back(*arguments):
    return splash.gradients(*arguments, device=kind)

  start = time.perf_counter()
  arguments = q, k, k, segments, of_keys
  jax.jit(ahead).lower(*arguments).compile()
  jax.jit(back).lower(*arguments, row, row, q).compile()
  shape = (1, keys, heads, size)
  sizes = choose(shape, length, jnp.bfloat16, kind, of_keys=True)
  print(
    f"{kind}: {length} queries x {keys} keys compile in"
    f" {time.perf_counter() - start:.0f} s, backward {sizes}"
  )


def _compare_with_torch() -> None:
  lengths = tuple(np.bincount(_segments(_TOKENS.value)[0])[1:].tolist())
  settings = attention_sides.Settings(
    lengths, _HEADS.value, 128, _DTYPE.value, _REPEATS.value
  )
  # Backward five products of a pair, where forward has two; more is a kernel's own.
  flops = {"forward": settings.flops, "both": 3.5 * settings.flops}
  with tempfile.TemporaryDirectory() as folder:
    base: dict[str, float] = {}
    for name in ("torch", *_KERNELS.value):
      python = _TORCH.value if name == "torch" else sys.executable
      command = [python, "-m", "tests.benchmarks.attention_sides", name, folder]
      command.append(json.dumps(dataclasses.asdict(settings)))
      done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
      found = json.loads(done.stdout.splitlines()[-1])
      base = base or found
      print(f"{name:8}", end="")
      for part, seconds in found.items():
        rate, ratio = flops[part] / seconds / 1e12, base[part] / seconds
        print(
          f" {part} {seconds * 1e3:9.2f} ms {rate:7.2f} TFLOP/s {ratio:5.2f}x", end=""
        )
      far = attention_sides.difference(pathlib.Path(folder), name, "torch")
      print(f"  differs by {far:.1e}")


def main(_) -> None:
  """Runs on the CPU, compiles for TPUs, or compares with PyTorch's on a GPU."""
  if _KERNELS.value:
    _compare_with_torch()
    return
  jax.config.update("jax_platforms", "cpu")
  if _TOPOLOGIES.value:
    _compile()
  else:
    _compare()


if __name__ == "__main__":
  app.run(main)
