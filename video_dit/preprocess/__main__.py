r"""Turns media files with captions into the data that training reads.

  python -m video_dit.preprocess --config=configs/autoencoder.py --input=clips/ \
      --output=data/
  python -m video_dit.preprocess --config=configs/b.py --input=clips/ --output=data/ \
      --config.autoencoder.checkpoint=runs/autoencoder/autoencoder --mesh=gpu
  python -m video_dit.preprocess --config=configs/autoencoder.py \
      --input=tfds:ucf101:train --output=data/ --config.media.max_frames=33

Flags:
  --input      a folder (captions in .txt files beside the media), a manifest (.jsonl,
               .csv, .tsv, .parquet with columns path and caption; split, start_seconds
               and end_seconds where wanted), or tfds:name[:split]
  --output     folder of clips.parquet, rejects.parquet, text/ and the data set:
               latents/, or pixels/ where config.objective is reconstruction
  --overwrite  replace what was made with other settings, media or captions
  --verify     read every record in --output, and report what is wrong
  --host       I/N: this is host I, from 0 on, of N that make one --output together, with
               the same command; --distributed finds I and N by itself
  --runner     how files are examined: DataflowRunner, FlinkRunner, ... with Beam's own
               flags beside it (docs/ingest.md), or pool. Without it, Beam's embedded
               runner where Beam is installed, else a pool of processes
  --mesh       cpu:8 | gpu | tpu, then ,axis=size ...
  --config     configs/X.py[:preset]
  --config.media.KEY=VALUE   frames_per_second, max_pixels, max_frames, workers, ...

Input and output may be remote: gs://, s3:// or anything else that fsspec supports.

Safe to kill and rerun: finished work is reused, new files are added. Every file
ends as clips or in rejects.parquet with its reason. Exit status 1: no clips, or
--verify found something wrong.
"""

import os
import pathlib
import re
import sys

from absl import flags as absl_flags
import jax

from video_dit import files, flags
from video_dit.data import parts, schema, verify
from video_dit.parallel import mesh as mesh_lib
from video_dit.preprocess import remote, remote_disk, run, summary, ways

FLAGS = absl_flags.FLAGS

flags.define_config()
flags.define_mesh()
absl_flags.DEFINE_string("input", None, "folder, manifest or tfds:name[:split]")
absl_flags.DEFINE_string("output", None, "folder of the results")
absl_flags.DEFINE_bool("overwrite", False, "replace what other settings made")
absl_flags.DEFINE_bool("verify", False, "read every record of --output")
absl_flags.DEFINE_string("host", "", "I/N: this host of N")
absl_flags.DEFINE_string("runner", "", "Beam runner for ingest, or pool")

_beam_options: list[str] = []


def main() -> None:
  """Preprocesses the input that the flags name, or verifies an output."""
  try:
    if FLAGS.verify:
      _verify(flags.path("output", "data/"))
    else:
      _preprocess()
  except remote.RemoteError as error:
    raise ValueError(str(error)) from error


def _preprocess() -> None:
  source = flags.path("input", "clips/")
  output = flags.folder("output", "data/")
  if not remote.is_remote(output):
    files.check_writable(output)
  config = flags.config()
  mesh = flags.mesh(config, keep=False)  # Large frames need all the memory there is.
  host, hosts = jax.process_index(), jax.process_count()
  if hosts > 1:  # each works alone
    devices = jax.local_devices()
    mesh = mesh_lib.make(devices, (len(devices), 1, 1, 1))
  if FLAGS.host:
    host, hosts = _host(FLAGS.host)
  outcome = run.preprocess(
    config,
    source,
    output,
    overwrite=FLAGS.overwrite,
    mesh=mesh,
    host=host,
    hosts=hosts,
    way=ways.Way(FLAGS.runner, tuple(_beam_options)),
  )
  if host:
    print(summary.share(outcome))
    return
  print(summary.text(outcome, config))
  if not outcome.counts.clips:
    print(
      f"error: --input={source} produced no clips: every line was rejected, or there were"
      f" none. See {os.path.join(output, 'rejects.parquet')}.",
      file=sys.stderr,
    )
    sys.exit(1)


def _take_beam_options() -> None:
  """Takes the flags that are not ours from the command line, if --runner is given."""
  if not any(re.match(r"--?runner\b", word) for word in sys.argv[1:]):
    return
  ours = [sys.argv[0]]
  kept = ours
  for word in sys.argv[1:]:
    if found := re.match(r"--?([A-Za-z_][\w.]*)", word):
      name = found[1]
      known = name in FLAGS or name.removeprefix("no") in FLAGS or name == "help"
      kept = ours if known or name.startswith("config.") else _beam_options
    kept.append(word)
  sys.argv = ours


def _host(text: str) -> tuple[int, int]:
  found = re.fullmatch(r"(\d+)/(\d+)", text)
  if not found or int(found[1]) >= int(found[2]):
    raise ValueError(
      f"--host={text} must be I/N with I from 0 to N - 1, like --host=0/4."
    )
  return int(found[1]), int(found[2])


def _verify(output: str) -> None:
  folder, disk = remote_disk.output(output, read_only=True)
  sets = [folder / kind for kind in ("latents", "pixels")]
  found = [path for path in sets if _is_set(path)]
  if not found:
    raise ValueError(f"--output={output}: there is no data set to verify.")
  bad = False
  for path in found:
    report = verify.verify(path, disk)
    for fault in report.faults:
      where = fault.where.replace(str(folder), output.rstrip("/"))
      print(f"{where}: {fault.message}")
    state = "finished" if report.finished else "unfinished: run again to continue"
    print(
      f"{path.name}: {report.records:,} records in {report.shards:,} shards read,"
      f" {report.bytes / 1e9:.3f} GB, {len(report.faults):,} faults; {state}"
    )
    bad = bad or bool(report.faults)
  if bad:
    print(
      "error: remove the shards named above and run again: only what is missing is"
      " made anew.",
      file=sys.stderr,
    )
    sys.exit(1)


def _is_set(folder: pathlib.Path) -> bool:
  """Whether records are there, or what says who made them."""
  if (folder / schema.PROVENANCE).is_file():
    return True
  if any((folder / parts.PARTS).glob("*.parquet")):
    raise ValueError(
      f"{folder}: holds records, but no {schema.PROVENANCE} that says what made them."
      " Restore that file, or make the data set anew with --overwrite."
    )
  return False


if __name__ == "__main__":
  _take_beam_options()
  flags.run(
    main,
    __doc__,
    interrupted="run the same command to continue",
    again="finished work is kept",
  )
