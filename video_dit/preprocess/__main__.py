r"""Turns media files with captions into the data that training reads.

  python -m video_dit.preprocess --config=configs/demo.py --input=clips/ --output=data/
  python -m video_dit.preprocess --config=configs/autoencoder.py \
      --input=clips/manifest.jsonl --output=data/ --config.media.max_frames=33
  python -m video_dit.preprocess --config=configs/b.py --input=tfds:ucf101:train \
      --output=data/ --mesh=gpu

Flags:
  --input      a folder (captions in .txt files beside the media), a manifest (.jsonl,
               .csv, .tsv, .parquet with columns path and caption; split, start_seconds
               and end_seconds where wanted), or tfds:name[:split]
  --output     folder of clips.parquet, rejects.parquet, text/ and the data set:
               latents/, or pixels/ where config.objective is reconstruction
  --overwrite  make anew what was made with other settings or captions
  --mesh       cpu:8 | gpu | tpu, then ,axis=size ...
  --config.media.KEY=VALUE   frames_per_second, max_pixels, max_frames, workers, ...

Safe to kill and to run again: what is done is reused, added files are added. Every file
ends as clips or in rejects.parquet with its reason. Exit status 1: there was no clip.
"""

import os
import sys

from absl import flags as absl_flags
import jax

from video_dit import flags
from video_dit.preprocess import run, summary

FLAGS = absl_flags.FLAGS

flags.define_config()
flags.define_mesh()
absl_flags.DEFINE_string("input", None, "folder, manifest or tfds:name[:split]")
absl_flags.DEFINE_string("output", None, "folder of the results")
absl_flags.DEFINE_bool("overwrite", False, "make anew what other settings made")


def main() -> None:
  """Preprocesses what the flags name."""
  source = flags.required("input", "clips/")
  output = os.path.expanduser(flags.required("output", "data/"))
  config = flags.config()
  mesh = flags.mesh(config)
  if jax.process_count() > 1:
    raise ValueError(
      f"{jax.process_count()} hosts: preprocess runs on one. Start it there without"
      " --distributed, and share its --output."
    )
  # Simulated devices share the processor: splitting batches over them gains nothing.
  simulated = mesh.devices.flat[0].platform == "cpu"
  outcome = run.preprocess(
    config,
    source,
    output,
    overwrite=FLAGS.overwrite,
    mesh=None if simulated else mesh,
  )
  print(summary.text(outcome, config))
  if not outcome.counts.clips:
    print(
      f"error: no clip came of --input={source}: every line was rejected, or there was"
      f" none. See {os.path.join(output, 'rejects.parquet')}.",
      file=sys.stderr,
    )
    sys.exit(1)


if __name__ == "__main__":
  flags.run(main, __doc__)
