"""The GPU kernels of attention as the compiler leaves them, on GPUs that are not here.

    python -m tests.benchmarks.gpu_kernels --tokens=32768 --heads=9

For each GPU, dtype and head size: blocks, warps and stages, programs that share a block,
shared memory, and, by NVIDIA's assembler, registers of a thread and bytes spilled from
them; `wgmma` are Hopper's products of a warp group, `mma` those of a warp. Needs the
extra `plan`, and for the assembler nvidia-cuda-nvcc. Nothing is run, so nothing is timed.
It takes four minutes; others by --sizes=64,256 and --dtypes=float32.
"""

import functools
import pathlib
import re
import subprocess
import sys
import tempfile

from absl import app, flags
import jax
import jax.numpy as jnp

from video_dit import extras
from video_dit.parallel import mesh as mesh_lib
from video_dit.parallel.kernels import triton
from video_dit.parallel.kernels.triton_sizes import (
  Sizes,
  backward_sizes,
  forward_sizes,
  key_sizes,
)
from video_dit.plan import gpus

_TOKENS = flags.DEFINE_integer("tokens", 32_768, "Of the row.")
_TEXT = flags.DEFINE_integer("text", 4096, "Tokens of its captions.")
_HEADS = flags.DEFINE_integer("heads", 9, "Of each size.")
_SIZES = flags.DEFINE_list("sizes", ["128"], "Of the heads.")
_DTYPES = flags.DEFINE_list("dtypes", ["bfloat16"], "Of the arrays.")

_RTX_4090 = gpus.Gpu(
  kind="NVIDIA GeForce RTX 4090",
  major=8,
  minor=9,
  cores=128,
  lanes=128,
  clock=2.52,
  memory=24 * 2**30,
  bandwidth=1_008_000_000_000,
  cache=72 * 2**20,
  shared=100 * 1024,
)
_GPUS = (gpus.GPUS["h100"], gpus.GPUS["a100"], _RTX_4090)
_LINE = "{:24} {:9} {:5} {:9} {:>18} {:>8} {:>9} {:>8} {:>6} {:>5}"


def main(argv) -> None:
  """One line a kernel."""
  del argv
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  if not gpus.has_compiler():
    sys.exit(f"JAX's CUDA plugin is not installed: {extras.command('plan')}.")
  names = ("GPU", "dtype", "heads", "pass", "blocks,warps/parts", "shared", "registers")
  print(_LINE.format(*names, "spilled", "wgmma", "mma"))
  for gpu in _GPUS:
    mesh = mesh_lib.make(gpus.devices(gpu, 1, 1), (1, 1, 1, 1))
    for dtype in _DTYPES.value:
      for size in map(int, _SIZES.value):
        for found in _kernels(gpu, mesh, jnp.dtype(dtype), size):
          print(_LINE.format(gpu.kind.removeprefix("NVIDIA "), dtype, size, *found))


def _kernels(gpu: gpus.Gpu, mesh: jax.sharding.Mesh, dtype, size: int):
  of = size, dtype, gpu.kind
  row = _compiled(gpu, mesh, dtype, size, _TOKENS.value)
  yield "forward", *_cut(forward_sizes(*of)), *row["forward"]
  yield "queries", *_cut(backward_sizes(*of)), *row["queries"]
  yield "keys", *_cut(*key_sizes(*of, of_text=False)), *row["keys"]
  text = _compiled(gpu, mesh, dtype, size, _TEXT.value)
  yield "text", *_cut(*key_sizes(*of, of_text=True)), *text["keys"]


def _cut(sizes: Sizes, parts: int = 1) -> tuple[str]:
  return (f"{sizes.block},{sizes.other},{sizes.warps}x{sizes.stages}/{parts}",)


def _compiled(gpu: gpus.Gpu, mesh, dtype, size: int, keys: int) -> dict[str, tuple]:
  """Shared memory, registers, bytes spilled, and products, of each kernel."""
  shape, length = (1, _TOKENS.value, _HEADS.value, size), (1, keys, _HEADS.value, size)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  array = functools.partial(jax.ShapeDtypeStruct, sharding=whole)
  q, k, row = array(shape, dtype), array(length, dtype), array(shape[:3], jnp.float32)
  numbers = array(shape[:2], jnp.int32), array(length[:2], jnp.int32)
  ahead = functools.partial(triton.attention, device=gpu.kind)
  back = functools.partial(triton.gradients, device=gpu.kind)
  found: dict[str, tuple] = {}
  with tempfile.TemporaryDirectory() as folder, jax.set_mesh(mesh):
    options = {"xla_dump_to": folder, "xla_dump_emitter_re": ".*"}
    jax.jit(ahead).lower(q, k, k, *numbers).compile(options)
    jax.jit(back).lower(q, k, k, *numbers, row, row, q).compile(options)
    thunks = pathlib.Path(folder).glob("*thunk_sequence.txt")
    said = "".join(path.read_text() for path in thunks)
    for path in pathlib.Path(folder).glob("*.ptx"):
      text = path.read_text()
      name = re.search(r"\.entry (packed\w*_(\w+))\(", text)
      if not name:
        continue
      shared = re.search(rf"{name[1]} .*shared_memory: (\d+)", said)
      assert shared, name[1]
      products = text.count("wgmma.mma_async"), text.count("mma.sync.aligned")
      found[name[2]] = shared[1], *_registers(path), *products
  return found


def _registers(path: pathlib.Path) -> tuple[str, str]:
  """Registers of a thread and bytes spilled, by the assembler; `?` without it."""
  found = sorted(
    p for at in sys.path for p in pathlib.Path(at).glob("nvidia/*/bin/ptxas")
  )
  if not found:
    return "?", "?"
  target = re.search(r"\.target (\w+)", path.read_text())
  assert target, path
  command = [found[0], f"-arch={target[1]}", "-v", path, "-o", path.with_suffix(".cubin")]
  said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
  registers = re.search(r"Used (\d+) registers", said)
  spilled = re.search(r"(\d+) bytes spill stores", said)
  return registers[1] if registers else "?", spilled[1] if spilled else "?"


if __name__ == "__main__":
  app.run(main)
