r"""Generates clips from prompts with a trained checkpoint, or a published one.

  python -m video_dit.sample --workdir=runs/demo --prompt="a red circle moves left"
  python -m video_dit.sample --workdir=runs/demo --prompts=prompts.jsonl --mesh=cpu:8 \
      --config.sample.steps=30 --config.sample.guidance=3
  python -m video_dit.sample --config=configs/wan_1_3b.py --output=clips --mesh=gpu \
      --config.dit.checkpoint=Wan2.1-T2V-1.3B-Diffusers/transformer \
      --config.autoencoder.checkpoint=Wan2.1-T2V-1.3B-Diffusers/vae \
      --config.text.checkpoint=Wan2.1-T2V-1.3B-Diffusers/text_encoder --prompt="a boat"

Flags:
  --workdir    folder of the training run; without it, the published transformer that
               config.dit.checkpoint names, with the encoders that config names
  --step       of the checkpoint, one of those that the run has kept [the newest]
  --prompt     what a clip shows; may be given several times, and may be empty
  --prompts    a .txt file with a prompt a line, or a .jsonl file whose lines have a
               prompt and, where wanted, height, width, frames, frames_per_second, seed,
               guidance, negative (a prompt that guidance leads away from), given (a
               media file whose first given_frames frames begin the clip); may be given
               several times
  --output     folder of the clips, samples.jsonl and index.html [WORKDIR/samples]; both
               keep what earlier samples in the folder are recorded with
  --mesh       cpu:8 | gpu | tpu, then ,axis=size ...
  --distributed  join the other hosts of this run first
  --config     configs/X.py[:preset], in place of the workdir's own config
  --config.sample.KEY=VALUE   sampler (euler, heun, ddim, dpmpp_2m, unipc), eta (noise in
               ddim's steps, 0 to 1), steps, guidance, negative, guidance_interval,
               height, width, frames, frames_per_second, format (mp4, gif, png), seed,
               rows, row_length

The i-th prompt has the seed config.sample.seed + i unless its line names another. The
same seed and size give the same clip whatever else is generated with it, up to rounding:
config.sample.rows rows of config.sample.row_length tokens are sampled at a time, of a few
clips 1, 2, 4 ... rows for each of the mesh's data x fsdp, and each number of rows is
another program.
"""

import os
import pathlib

from absl import flags as absl_flags

from video_dit import files, flags, interop
from video_dit.generator import generator as generator_lib
from video_dit.parallel import hosts
from video_dit.sample import prompts, run

FLAGS = absl_flags.FLAGS

flags.define_config(saved=True)
flags.define_workdir()
flags.define_mesh()
absl_flags.DEFINE_integer("step", None, "of the checkpoint; by default the newest")
absl_flags.DEFINE_multi_string("prompt", [], "what the clip shows")
absl_flags.DEFINE_multi_string("prompts", [], ".txt or .jsonl file of prompts")
absl_flags.DEFINE_string("output", None, "folder of the clips")


def main() -> None:
  """Samples what the flags ask for and names the gallery."""
  published = not FLAGS.workdir and FLAGS.config and FLAGS.config.dit.checkpoint
  if published and FLAGS.step is not None:
    raise ValueError(f"--step={FLAGS.step} is of a run: name its --workdir, or leave it.")
  workdir = "" if published else flags.folder("workdir", "runs/demo")
  folder = pathlib.Path(
    flags.folder("output", "clips" if published else "")
    or pathlib.Path(workdir) / "samples"
  )
  files.check_writable(folder)
  listed = [os.path.expanduser(name) for name in FLAGS.prompts]
  lines = prompts.lines(FLAGS.prompt, listed)
  config = flags.config()
  if published:
    config = interop.with_transformer(config)
  mesh = flags.mesh(config)
  if published:
    generator = generator_lib.Generator.from_published(config, mesh)
  else:
    generator = generator_lib.Generator.from_workdir(
      pathlib.Path(workdir), config, mesh, step=FLAGS.step
    )
  samples = run.sample(generator, lines, folder)
  hosts.say(f"{len(samples)} clips, {folder / 'samples.jsonl'}, {folder / 'index.html'}")


if __name__ == "__main__":
  flags.run(main, __doc__, again="it makes all of its clips anew")
