"""Runs the pipeline of ingest, from facts and back to them.

`--runner` empty is Beam's embedded runner: it holds what a pipeline computes in memory,
so files are looked at some thousands at a time, and the tables are made from the facts by
`ingest.tabulate`. Any other runner does the whole in one pipeline, over a folder that
all its machines see; this machine only lists the input and joins the parts.
"""

import argparse
import collections
from collections.abc import Iterable, Iterator
import itertools
import json
import os
import shutil
from typing import Any, NoReturn
import uuid

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options import pipeline_options
from apache_beam.runners.portability.fn_api_runner import fn_runner
import tqdm

from video_dit import config as config_lib
from video_dit.preprocess import examine, ingest, pipeline, remote
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import held as held_lib

EMBEDDED = ("", "DirectRunner", "FnApiRunner", "embedded")
_FOLDER = "work/pipeline"
_RECORDS = "records"
# Files that the embedded runner looks at in one pipeline.
_AT_ONCE = 1024


def check(
  runner: str, options: Iterable[str], output: str | os.PathLike[str] = ""
) -> None:
  """Refuses flags unknown to Beam, and an output that its machines cannot reach.

  Args:
    runner: Beam's name of a runner, or where its class lies.
    options: of the runner, as on Beam's command line.
    output: of the run.

  Raises:
    ValueError: naming the first of them.
  """
  if runner not in EMBEDDED:
    # What a runner's module adds to the options is known once that is imported.
    try:
      beam.runners.create_runner(runner)
    except (ImportError, AttributeError, ValueError) as error:
      raise ValueError(f"--runner={runner} cannot be found: {error}") from error
  parser = _Parser(add_help=False, allow_abbrev=False)
  waiting = collections.deque([pipeline_options.PipelineOptions])
  while waiting:
    kind = waiting.popleft()
    waiting.extend(kind.__subclasses__())
    if "_add_argparse_args" in vars(kind):
      kind._add_argparse_args(parser)
  _, unknown = parser.parse_known_args(list(options))
  if unknown:
    raise ValueError(
      f"{unknown[0]}: unknown flag, both here and in Beam. See --help and"
      " Beam's PipelineOptions."
    )
  if runner == "DataflowRunner" and not remote.is_remote(output):
    raise ValueError(
      f"--output={os.fspath(output)} with --runner=DataflowRunner: Dataflow's machines"
      " cannot see local folders. Give --output=gs://bucket/folder."
    )
  if runner and remote.is_remote(output):
    try:
      FileSystems.get_filesystem(os.fspath(output))
    except ValueError as error:
      raise ValueError(
        f"--output={os.fspath(output)} with --runner={runner}: Beam cannot write there"
        f" ({error}). For gs:// install 'apache-beam[gcp]', for s3:// 'apache-beam[aws]'."
      ) from error


class _Parser(argparse.ArgumentParser):
  """Reports an error without listing all of Beam's flags."""

  def error(self, message: str) -> NoReturn:
    """Raises instead of ending the process."""
    raise ValueError(f"{message} (a Beam flag)")


def examine_files(
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  work: pipeline.Work = examine.work,
) -> int:
  """Examines every file that has no facts yet, with the embedded runner.

  Args:
    facts: are completed.
    config: settings.
    folder: of the output.
    work: looks at a file.

  Returns:
    How many files there were.
  """
  total, output = facts.num_unseen(config.media), os.fspath(folder)
  reach = ingest.Reach()
  records = (r for r in facts.records(config.media) if _is_unseen(r))
  with tqdm.tqdm(desc="ingest", total=total, unit="file", mininterval=0.5) as bar:
    while chunk := list(itertools.islice(records, _AT_ONCE)):
      place = _fresh(output)
      shards = _write_records(chunk, place)
      with _begin("", [], config) as running:
        found = pipeline.examined(running, shards, config, work)
        pipeline.written(found, place, pipeline.FACTS)
      files = {record["id"]: record["line"]["file"] for record in chunk}
      numbers = {(record["number"] - 1) // pipeline.LINES for record in chunk}
      for number in sorted(numbers):
        for record in pipeline.read_part(pipeline.part(place, pipeline.FACTS, number)):
          facts.put(bytes.fromhex(record["id"]), record["known"])
          reach.saw(files[record["id"]], record["known"])
      facts.commit()
      bar.update(len(chunk))
  _remove(output)
  return total


def run(
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  runner: str,
  options: list[str],
  place: str = "",
  held: held_lib.Held = held_lib.Held(),
) -> tuple[int, ingest.Counts]:
  """Examines files and makes the tables, in one pipeline.

  Args:
    facts: hold the lines, and are completed.
    config: settings.
    folder: of the tables, on this machine.
    runner: Beam's name of a runner.
    options: of the runner, as on Beam's command line.
    place: the output as all machines of the runner see it; empty where it is `folder`.
    held: clips that are kept in preference to equal ones.

  Returns:
    How many files were looked at, and what the tables hold.

  Raises:
    ValueError: the runner ended, and some of its parts are missing.
  """
  output = place or os.fspath(folder)
  place = _fresh(output)
  shards = _write_records(facts.records(config.media), place)
  with _begin(runner, options, config) as running:
    pipeline.whole(running, shards, config, place)
  names = [(name, n) for name in pipeline.NAMES for n in range(len(shards))]
  for name, number in names:
    if not FileSystems.exists(path := pipeline.part(place, name, number)):
      raise ValueError(
        f"--runner={runner} ended without {path}. Either the pipeline did not run (a"
        " template, a dry run or a cancelled job), or its machines write elsewhere:"
        " --output must be a place that all of them see, such as gs://bucket/folder."
        " The tables are unchanged."
      )
  looked_at: set[str] = set()
  for number in range(len(shards)):
    for record in pipeline.read_part(pipeline.part(place, pipeline.FACTS, number)):
      if record.get("is_new"):
        facts.put(bytes.fromhex(record["id"]), record["known"])
        looked_at.add(record["id"])
  facts.commit()
  parts = (pipeline.part(place, pipeline.ROWS, n) for n in range(len(shards)))
  rows = itertools.chain.from_iterable(map(pipeline.read_part, parts))
  counts = ingest.tabulate(facts, config, folder, held, rows)
  _remove(output)
  return len(looked_at), counts


def _begin(runner: str, options: list[str], config: config_lib.Config) -> beam.Pipeline:
  """A pipeline; it runs to its end when its block is left."""
  if runner not in EMBEDDED:
    known = pipeline_options.PipelineOptions([f"--runner={runner}", *options])
    return beam.Pipeline(options=known)
  known = pipeline_options.PipelineOptions(list(options))
  direct = known.view_as(pipeline_options.DirectOptions)
  if not any(option.startswith("--direct_") for option in options):
    direct.direct_num_workers = config.media.workers
    direct.direct_running_mode = "multi_threading"
  # DirectRunner by name would fetch a runner of another language first.
  return beam.Pipeline(runner=fn_runner.FnApiRunner(), options=known)


def _is_unseen(record: dict[str, Any]) -> bool:
  return record["known"] is None and record["id"] is not None


def _write_records(records: Iterable[dict[str, Any]], place: str) -> list[str]:
  """Writes records into shards of `LINES`; returns their paths."""
  shards: list[str] = []
  for chunk in _chunks(records):
    shards.append(pipeline.part(place, _RECORDS, len(shards)))
    with FileSystems.create(shards[-1]) as file:
      for record in chunk:
        file.write(json.dumps(record).encode("ascii") + b"\n")
  return shards


def _chunks(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
  records = iter(records)
  while chunk := list(itertools.islice(records, pipeline.LINES)):
    yield chunk


def _fresh(folder: str) -> str:
  """A new folder for one job: what an earlier one left, or still writes, is not read."""
  _remove(folder)
  place = FileSystems.join(folder, *_FOLDER.split("/"), uuid.uuid4().hex)
  FileSystems.mkdirs(place)
  return place


def _remove(folder: str) -> None:
  """Removes the folders of all jobs."""
  place = FileSystems.join(folder, *_FOLDER.split("/"))
  if not remote.is_remote(place):
    shutil.rmtree(place, ignore_errors=True)
    return
  # Beam's file systems differ in what they remove.
  system, path = remote.filesystem(place)
  system.invalidate_cache()
  if remote.kind(place) is not None:
    with remote.reaching(place):
      system.rm(path, recursive=True)
