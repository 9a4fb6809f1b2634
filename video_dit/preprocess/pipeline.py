"""Ingest as an Apache Beam pipeline, on this machine or on many (extra `beam`).

    lines ─ examine ─ decide ─▶ parts ─▶ same bytes, look alike ─▶ tables

Each stage is the function that the pool of workers runs too (`examine.work`,
`decide.rows`), and the same records come of both, in the same order. Lines are set
against each other where the parts are joined (`distinct`): whether a clip stays depends
on which of those before it stay, which is one machine's work, of a minute for a million.
Elements are a number and a text in JSON: names of files need not be UTF-8, and no runner
has to pickle anything of ours but the stages, which hold nothing but settings. A file is
looked at by a process of its own, which is killed if it takes too long.
"""

from collections.abc import Callable, Iterable, Iterator
import json
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from video_dit import config as config_lib
from video_dit.preprocess import cuts, decide, examine, inputs, workers
from video_dit.preprocess import ingest as ingest_lib

# Lines that are read, and written, together.
LINES = 4096
# Parts that are written: what was seen of each file, and what becomes of each line.
NAMES = FACTS, ROWS = "facts", "rows"

# A line's number, and its record or its rows as JSON.
Text = tuple[int, str]
Work = Callable[[Any], workers.Result]


def whole(
  pipeline: beam.Pipeline, shards: list[str], config: config_lib.Config, folder: str
) -> beam.PCollection:
  """Makes facts and rows of records.

  Args:
    pipeline: that all of it goes into.
    shards: paths of the records.
    config: settings.
    folder: of the parts, as all machines see it.

  Returns:
    The numbers of the parts. There is one end: some runners (Dask's) compute the
    pipeline's last collection, with what that needs, and no more.
  """
  records = examined(pipeline, shards, config)
  parts = (
    written(records, folder, FACTS),
    written(decided(records, config), folder, ROWS),
  )
  return parts | "all parts" >> beam.Flatten()


def examined(
  pipeline: beam.Pipeline,
  shards: list[str],
  config: config_lib.Config,
  work: Work = examine.work,
) -> beam.PCollection:
  """Reads records and examines, with `work`, the files that have no facts yet."""
  return (
    pipeline
    | "shards" >> beam.Create(shards)
    | "shards apart" >> beam.Reshuffle()
    | "read" >> beam.ParDo(Read())
    | "files apart" >> beam.Reshuffle()
    | "examine" >> beam.ParDo(Examine(config.media, config.ingest, work))
  )


def decided(records: beam.PCollection, config: config_lib.Config) -> beam.PCollection:
  """Makes rows of the records that `examined` gives."""
  return records | "decide" >> beam.ParDo(Decide(config))


def written(texts: beam.PCollection, folder: str, name: str) -> beam.PCollection:
  """Writes texts by line into parts `folder/name-00000.jsonl` of `LINES` lines."""
  return (
    texts
    | f"part of {name}" >> beam.ParDo(PartOfLine())
    | f"by part of {name}" >> beam.GroupByKey()
    | f"write {name}" >> beam.ParDo(Write(folder, name))
  )


def part(folder: str, name: str, number: int) -> str:
  """Path of a part."""
  return FileSystems.join(folder, f"{name}-{number:05d}.jsonl")


class Read(beam.DoFn):
  """Reads the records of a shard."""

  def process(self, element: str) -> Iterator[Text]:
    """Yields the records."""
    with FileSystems.open(element) as file:
      for line in file:
        text = line.decode("ascii").rstrip()
        yield json.loads(text)["number"], text


class Examine(beam.DoFn):
  """Examines the file of a record without facts, in its own process."""

  def __init__(
    self,
    media: config_lib.Media,
    ingest: config_lib.Ingest,
    work: Work = examine.work,
  ):
    """Starts nothing."""
    self._media, self._ingest, self._work = media, ingest, work
    self._pool: workers.Pool | None = None

  def process(self, element: Text) -> Iterator[Text]:
    """Yields the record, with facts."""
    number, text = element
    record = json.loads(text)
    if record["known"] is None and record["id"] is not None:
      if self._pool is None:
        self._pool = workers.Pool(self._work, 1, self._media.timeout_seconds)
      line = inputs.from_json(record["line"])
      id = bytes.fromhex(record["id"])
      job = ingest_lib.job_of(id, line, self._media, self._ingest)
      ((_, result),) = self._pool.run([(1, job)], 1)
      record |= {"known": ingest_lib.known(result, self._media), "is_new": True}
      text = json.dumps(record)
    yield number, text

  def teardown(self) -> None:
    """Ends the process."""
    if self._pool is not None:
      self._pool.__exit__()
      self._pool = None


class Decide(beam.DoFn):
  """Makes the rows of a line by itself."""

  def __init__(self, config: config_lib.Config):
    """Keeps the settings."""
    self._config, self._grid = config, cuts.grid_of(config)

  def process(self, element: Text) -> Iterator[Text]:
    """Yields the rows."""
    number, text = element
    record = json.loads(text)
    line, known = inputs.from_json(record["line"]), record["known"]
    rows = decide.rows(number, line, known, self._config, self._grid)
    yield number, json.dumps(rows)


class PartOfLine(beam.DoFn):
  """Determines which part a line belongs to."""

  def process(self, element: Text) -> Iterator[tuple[int, Text]]:
    """Yields the part, and the line."""
    yield (element[0] - 1) // LINES, element


class Write(beam.DoFn):
  """Writes a part whole, its lines in order; written again it is the same."""

  def __init__(self, folder: str, name: str):
    """Keeps the place."""
    self._folder, self._name = folder, name

  def process(self, element: tuple[int, Iterable[Text]]) -> Iterator[int]:
    """Yields the part's number."""
    number, lines = element
    with FileSystems.create(part(self._folder, self._name, number)) as file:
      for _, text in sorted(lines):
        file.write(text.encode("ascii") + b"\n")
    yield number


def read_part(path: str) -> Iterator[Any]:
  """What a part holds, in order."""
  with FileSystems.open(path) as file:
    for line in file:
      yield json.loads(line.decode("ascii"))
