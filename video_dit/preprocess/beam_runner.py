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
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options import pipeline_options
from apache_beam.runners.portability.fn_api_runner import fn_runner
import tqdm

from video_dit import config as config_lib
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import ingest, pipeline

EMBEDDED = ("", "DirectRunner", "FnApiRunner", "embedded")
_FOLDER = "work/pipeline"
_RECORDS, _FACTS, _ROWS = "records", "facts", "rows"
# Files that the embedded runner looks at in one pipeline.
_AT_ONCE = 1024


def check(options: Iterable[str]) -> None:
  """Refuses options that Beam does not know.

  Raises:
    ValueError: naming the first of them.
  """
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  waiting = collections.deque([pipeline_options.PipelineOptions])
  while waiting:
    kind = waiting.popleft()
    waiting.extend(kind.__subclasses__())
    if "_add_argparse_args" in vars(kind):
      kind._add_argparse_args(parser)
  _, unknown = parser.parse_known_args(list(options))
  if unknown:
    raise ValueError(
      f"{unknown[0]}: there is no such flag, neither here nor of Beam's. See --help and"
      " Beam's PipelineOptions."
    )


def examine_files(
  facts: facts_lib.Facts, config: config_lib.Config, folder: str | os.PathLike[str]
) -> int:
  """Looks at every file that has no facts yet, by the embedded runner.

  Args:
    facts: are completed.
    config: settings.
    folder: of the output.

  Returns:
    How many files there were.
  """
  total = facts.num_unseen(config.media)
  place = _clean(folder)
  records = (r for r in facts.records(config.media) if _is_unseen(r))
  with tqdm.tqdm(desc="ingest", total=total, unit="file", mininterval=0.5) as bar:
    while chunk := list(itertools.islice(records, _AT_ONCE)):
      shards = _write_records(chunk, place)
      with _begin("", [], config) as running:
        found = pipeline.examined(running, shards, config)
        pipeline.written(found, place, _FACTS)
      numbers = {(record["number"] - 1) // pipeline.LINES for record in chunk}
      for number in sorted(numbers):
        for record in pipeline.read_part(pipeline.part(place, _FACTS, number)):
          facts.put(bytes.fromhex(record["id"]), record["known"])
      facts.commit()
      bar.update(len(chunk))
      _clean(folder)
  return total


def run(
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  runner: str,
  options: list[str],
  place: str = "",
) -> tuple[int, ingest.Counts]:
  """Looks at files and makes the tables, by one pipeline.

  Args:
    facts: hold the lines, and are completed.
    config: settings.
    folder: of the tables, on this machine.
    runner: Beam's name of a runner.
    options: of the runner, as on Beam's command line.
    place: the output as all machines of the runner see it; empty where it is `folder`.

  Returns:
    How many files were looked at, and what the tables hold.
  """
  output = place or os.fspath(folder)
  place = _clean(output)
  shards = _write_records(facts.records(config.media), place)
  with _begin(runner, options, config) as running:
    records = pipeline.examined(running, shards, config)
    pipeline.written(records, place, _FACTS)
    pipeline.written(pipeline.decided(records, config), place, _ROWS)
  looked_at: set[str] = set()
  with ingest.Tables(folder, facts, config.media) as tables:
    for number in range(len(shards)):
      for record in pipeline.read_part(pipeline.part(place, _FACTS, number)):
        if record.get("is_new"):
          facts.put(bytes.fromhex(record["id"]), record["known"])
          looked_at.add(record["id"])
      for rows in pipeline.read_part(pipeline.part(place, _ROWS, number)):
        tables.write(rows)
  facts.commit()
  _clean(output)
  return len(looked_at), tables.counts


def _begin(runner: str, options: list[str], config: config_lib.Config) -> beam.Pipeline:
  """A pipeline; it runs to its end where its block is left."""
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


def _clean(folder: str | os.PathLike[str]) -> str:
  """The pipeline's own folder, empty."""
  place = FileSystems.join(os.fspath(folder), *_FOLDER.split("/"))
  if FileSystems.exists(place):
    FileSystems.delete([place])
  FileSystems.mkdirs(place)
  return place
