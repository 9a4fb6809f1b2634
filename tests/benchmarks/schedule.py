"""How long a visit of two blocks takes in attention's TPU kernels, by the compiler.

    python -m tests.benchmarks.schedule --topology=v5p:2x2x1 --blocks=256,512,1024

Compiles the kernels for a chip that is not here (extra `plan`), has the
compiler write its final schedule, and counts the bundles of instructions, one a cycle, of
the loop's body for blocks that one segment fills, and for others. Beside it stands what
the matrix units need at their peak: a visit takes at least the longer of the two. Stalls
are not in it.
"""

import glob
import os
import pathlib
import re
import tempfile

from absl import app, flags

_TOPOLOGY = flags.DEFINE_string("topology", "v5p:2x2x1", "Of the chip.")
_BLOCKS = flags.DEFINE_list("blocks", ["512"], "Tokens of a block.")
_HEAD = flags.DEFINE_integer("head", 128, "Size of a head.")
_TEXT = flags.DEFINE_bool("text", False, "Keys of a text, a fourth of the queries.")

_LENGTH, _HEADS = 4096, 2
_DUMP = (
  "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_html=false"
  " --xla_jf_emit_annotations=true --xla_jf_debug_level=2"
)


def bundles(text: str) -> list[int]:
  """Bundles of the straight pieces of a schedule that hold matrix products."""
  pieces, length, products = [], 0, 0
  for line in text.splitlines():
    found = re.match(r"\s*(?:0x)?[0-9a-f]+\s+(L[HBE]|P[BF])?\s*:\s*>*\s*\{(.*)", line)
    if not found:
      continue
    if found[1]:
      pieces.append((length, products))
      length = products = 0
    length += 1
    products += found[2].count("vmatmul")
    if "sbr.rel" in found[2]:
      pieces.append((length, products))
      length = products = 0
  pieces.append((length, products))
  return [length for length, products in pieces if products]


def main(_) -> None:
  """Compiles and counts."""
  with tempfile.TemporaryDirectory() as folder:
    _count(folder)


def _count(folder: str) -> None:
  os.environ["LIBTPU_INIT_ARGS"] = _DUMP.format(folder)
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  import jax
  from jax.experimental import topologies
  import jax.numpy as jnp

  from video_dit.parallel.kernels import splash
  from video_dit.parallel.kernels.splash_sizes import choose
  from video_dit.plan import chips

  jax.config.update("jax_platforms", "cpu")
  device = topologies.get_topology_desc(_TOPOLOGY.value, platform="tpu").devices[0]
  here = jax.sharding.SingleDeviceSharding(device)
  chip = chips.CHIPS[chips.parse(_TOPOLOGY.value).chip]
  cores = 2 if chip.name in ("v4", "v5p") else 1  # of what JAX calls a device
  keys = _LENGTH // 4 if _TEXT.value else _LENGTH

  def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

  q, k = array(1, _LENGTH, _HEADS, _HEAD.value), array(1, keys, _HEADS, _HEAD.value)
  segments, of_keys = array(1, _LENGTH, dtype=jnp.int32), array(1, keys, dtype=jnp.int32)
  row = array(1, _LENGTH, _HEADS, dtype=jnp.float32)
  given = q, k, k, segments, of_keys
  for block in map(int, _BLOCKS.value):
    passes = (
      ("forward", splash.attention, given, 2),
      ("backward", splash.gradients, (*given, row, row, q), 5),
    )
    for name, function, arguments, products in passes:
      for old in glob.glob(f"{folder}/*"):
        os.remove(old)
      jax.jit(
        lambda *a, f=function, b=block: f(*a, device=device.device_kind, block=b)
      ).lower(*arguments).compile()
      path = glob.glob(f"{folder}/*packed_attention_{name}*[0-9]-final_bundles.txt")[0]
      backward = name == "backward"
      shape, others = (k.shape, _LENGTH) if backward else (q.shape, keys)
      kind = device.device_kind
      size = choose(shape, others, q.dtype, kind, of_keys=backward, block=block)
      flops = 2 * products * size.block * size.key_block * size.head
      least = flops / (chip.peak / cores / chip.clock)
      pieces = bundles(pathlib.Path(path).read_text())
      found, masked = min(pieces), max(pieces)
      print(
        f"{kind} {name}: blocks of {size.block} x {size.key_block}, heads of {size.head}:"
        f" {found} bundles ({masked} under a mask), matrix units {least:.0f} cycles:"
        f" {least / max(found, least):.2f} of the peak",
        flush=True,
      )


if __name__ == "__main__":
  app.run(main)
