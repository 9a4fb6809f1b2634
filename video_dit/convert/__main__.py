r"""Reads a checkpoint, reports what it is, and writes it as safetensors.

  python -m video_dit.convert --from=google/t5-v1_1-xxl --to=t5-encoder
  python -m video_dit.convert --from=models_t5_umt5-xxl-enc-bf16.pth \
      --to=umt5 --naming=transformers --dtype=bfloat16
  python -m video_dit.convert --from=Wan2.1_VAE.pth
  python -m video_dit.convert --from=runs/wan --to=wan/transformer --dtype=bfloat16

Flags:
  --from      a folder with weights and config.json, or a file: .safetensors, its
              .index.json, .bin, .pt, .pth. Pickled files are read without running
              them. Or the workdir of a run that trains a transformer: its averaged
              weights
  --step      of the workdir's checkpoint, one of those that it has kept [the newest]
  --to        folder to be written; without it, what was read is only reported
  --dtype     float32 | bfloat16 | float16 [the tensors' own; one for all layers, the
              narrowest that holds them]
  --naming    transformers | diffusers | native: whose names to write [those read]

`video_dit.interop.load` and the peers can read what is written; transformers of this
project's own architecture, `video_dit.interop.load` alone. A run can start from a
transformer (config.dit.checkpoint), and `video_dit.sample` take it without a run.
"""

import pathlib

from absl import flags as absl_flags
import jax

from video_dit import files, flags
from video_dit.convert import run

FLAGS = absl_flags.FLAGS

absl_flags.DEFINE_string("from", None, "checkpoint to be read")
absl_flags.DEFINE_integer("step", None, "of the checkpoint; by default the newest")
absl_flags.DEFINE_string("to", None, "folder to be written")
absl_flags.DEFINE_string("dtype", None, "of the tensors written")
absl_flags.DEFINE_string("naming", None, "whose names to write")
absl_flags.DEFINE_bool("debug", False, "show the traceback of a refused input")


def main() -> None:
  """Converts what the flags name."""
  # Else JAX starts every accelerator too, which fails where a run holds it, or takes most
  # of a GPU's memory from one.
  jax.config.update("jax_platforms", "cpu")
  source = pathlib.Path(flags.path("from", "google/t5-v1_1-xxl"))
  target = pathlib.Path(to) if (to := flags.folder("to")) else None
  if target is not None:
    files.check_writable(target)
  for line in run.convert(
    source, target, step=FLAGS.step, dtype=FLAGS.dtype, naming=FLAGS.naming
  ):
    print(line, flush=True)


if __name__ == "__main__":
  flags.run(main, __doc__, again="it converts all anew")
