r"""Measures a trained checkpoint: held-out loss, and how its samples follow prompts.

  python -m video_dit.evaluate --workdir=runs/demo
  python -m video_dit.evaluate --workdir=runs/demo --mesh=cpu:8 \
      --samples=runs/demo/samples --prompts=out/demo/prompts.jsonl

Flags:
  --workdir    folder of the training run
  --step       of the checkpoint, one of those that the run has kept [the newest]
  --samples    --output folder of video_dit.sample: its clips are shown, compared with
               the training clips and, with config.evaluate.adherence, measured
  --prompts    a .jsonl file with the truth of the prompts (colour, shape, direction),
               where the samples were not made from it
  --training   clips.parquet of the data set, or the folder of its media files where
               they have moved since [the run's data set]
  --nearest    training clips that samples are compared with, 0 for none [2000]
  --output     folder of the results [WORKDIR/evaluation]
  --mesh       cpu:8 | gpu | tpu, then ,axis=size ...
  --distributed  join the other hosts of this run first
  --config     configs/X.py[:preset], in place of the workdir's own config
  --config.evaluate.KEY=VALUE   batches, times, adherence

Writes evaluation.json, report.html and contact_sheet.png and names them.
"""

import pathlib

from absl import flags as absl_flags

from video_dit import files, flags
from video_dit.data import reader
from video_dit.evaluate import run
from video_dit.generator import generator as generator_lib

FLAGS = absl_flags.FLAGS

flags.define_config(saved=True)
flags.define_workdir()
flags.define_mesh()
absl_flags.DEFINE_integer("step", None, "of the checkpoint; by default the newest")
absl_flags.DEFINE_string("samples", None, "folder of samples")
absl_flags.DEFINE_string("prompts", None, ".jsonl file with truth")
absl_flags.DEFINE_string("training", None, "clips.parquet, or a folder of media")
absl_flags.DEFINE_integer("nearest", 2000, "training clips compared", lower_bound=0)
absl_flags.DEFINE_string("output", None, "folder of the results")


def main() -> None:
  """Evaluates the run that the flags name."""
  workdir = pathlib.Path(flags.folder("workdir", "runs/demo"))
  output = pathlib.Path(flags.folder("output") or workdir / "evaluation")
  files.check_writable(output)
  config = flags.config()
  training = pathlib.Path(named) if (named := flags.path("training")) else None
  table = training is not None and not training.is_dir()
  sources = run.Sources(
    samples=pathlib.Path(named) if (named := flags.path("samples")) else None,
    prompts=pathlib.Path(named) if (named := flags.path("prompts")) else None,
    clips=[training]
    if training and table
    else [folder / "clips.parquet" for folder in reader.named(config.data.path)],
    named=table,
    media=None if table else training,
    nearest=FLAGS.nearest,
  )
  mesh = flags.mesh(config)
  judged = run.judge(sources, config)
  generator = generator_lib.Generator.from_workdir(workdir, config, mesh, step=FLAGS.step)
  for path in run.evaluate(generator, judged, sources, output):
    print(path)


if __name__ == "__main__":
  flags.run(main, __doc__, again="it measures all anew")
