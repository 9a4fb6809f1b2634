r"""Trains what a config describes: the autoencoder on pixels, or the DiT on latents.

  python -m video_dit.main --config=configs/demo.py --workdir=runs/demo --mesh=cpu:8 \
      --config.data.path=data/
  python -m video_dit.main --config=configs/xl.py --workdir=runs/xl --mesh=tpu,fsdp=8 \
      --config.data.path=data/ --config.train.steps=100000

The workdir gets checkpoints, metrics.jsonl, TensorBoard files, samples and report.html.
A run that was stopped or killed continues when the same command is run again.

Flags:
  --config=configs/X.py[:preset]  what to train; --config.a.b=value overrides a leaf
  --workdir=FOLDER                of the run
  --mesh=cpu:8|gpu|tpu[,axis=n]   devices; axes: data, fsdp, tensor, context
  --distributed                   join the other hosts of this run first
  --profile=10:15                 trace steps 10 to 15 into WORKDIR/profile
"""

import pathlib

from absl import flags as absl_flags

from video_dit import files, flags, interop
from video_dit.parallel import programs
from video_dit.train import loop, objectives, profile
from video_dit.train import workdir as workdir_lib

flags.define_config()
flags.define_workdir()
flags.define_mesh()
absl_flags.DEFINE_string("profile", "", "first:last step to trace")


def main() -> None:
  """Flags to config, to mesh, to the data and the model, to the loop."""
  workdir = pathlib.Path(flags.folder("workdir", "runs/demo"))
  files.check_writable(workdir)
  begun = workdir_lib.begun(workdir)
  config = interop.with_transformer(flags.config(), begun)
  programs.keep_in(workdir / "compiled")
  traced = profile.parse(flags.FLAGS.profile, config.train.steps)
  mesh = flags.mesh(config)
  objective = objectives.from_config(config, mesh, begun=begun is not None)
  loop.train(objective, config, mesh, workdir, traced)


if __name__ == "__main__":
  flags.run(
    main,
    __doc__,
    interrupted="run the same command to continue",
    again="it continues from its last checkpoint",
  )
