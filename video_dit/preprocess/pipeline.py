"""Ingest as an Apache Beam pipeline, on this machine or on many (extra `beam`).

    lines ─ examine ─ decide ─┬─ same bytes ─┬─ look alike ─┬─▶ parts ─▶ tables
                              └─ by content ─┘  by band     └─ by line

Each stage is the function that the pool of workers runs too (`examine.work`,
`decide.rows`, `decide.same`, `hashes.first_alike`, `decide.alike`), and the same
records come of both, in the same order. Elements are a number and a text in JSON: names
of files need not be UTF-8, and no runner has to pickle anything of ours but the stages,
which hold nothing but settings. A file is looked at by a process of its own, which is
killed where it takes too long.
"""

from collections.abc import Callable, Iterable, Iterator
import json
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from video_dit import config as config_lib
from video_dit.preprocess import cuts, decide, examine, hashes, sources, workers
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
  """Reads records and looks, by `work`, at the files that have no facts yet."""
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
  rows = (
    records
    | "decide" >> beam.ParDo(Decide(config))
    | "by content" >> beam.GroupByKey()
    | "same bytes" >> beam.ParDo(Same())
  )
  if not config.ingest.near_duplicates:
    return rows
  near = (
    rows
    | "bands" >> beam.ParDo(Bands())
    | "by band" >> beam.GroupByKey()
    | "look alike" >> beam.ParDo(LookAlike(config.ingest.duplicate_bits))
    | "first alike" >> beam.CombinePerKey(min)
    | "line of clip" >> beam.ParDo(LineOfClip())
  )
  return (
    {"rows": rows, "near": near}
    | "by line" >> beam.CoGroupByKey()
    | "mark alike" >> beam.ParDo(MarkAlike())
  )


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
  """Looks at the file of a record that has no facts, in a process of its own."""

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
      line = sources.from_json(record["line"])
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
  """Makes the rows of a line, under what other lines of the same clips share with it."""

  def __init__(self, config: config_lib.Config):
    """Keeps the settings."""
    self._config, self._grid = config, cuts.Grid.of(config)

  def process(self, element: Text) -> Iterator[tuple[str, Text]]:
    """Yields the rows."""
    number, text = element
    record = json.loads(text)
    line, known = sources.from_json(record["line"]), record["known"]
    rows = decide.rows(number, line, known, self._config, self._grid)
    yield decide.content(rows) or f"line {number}", (number, json.dumps(rows))


class Same(beam.DoFn):
  """Rejects all lines of one content but the first."""

  def process(self, element: tuple[str, Iterable[Text]]) -> Iterator[Text]:
    """Yields the rows of each line."""
    _, lines = element
    first, text = min(lines)
    path = json.loads(text)[0]["path"]
    for number, text in lines:
      if number != first:
        text = json.dumps(decide.same(json.loads(text), path))
      yield number, text


class Bands(beam.DoFn):
  """Puts each clip into the buckets in which those that look like it are found."""

  def process(self, element: Text) -> Iterator[tuple[int, Text]]:
    """Yields a bucket, and the clip's number with its hashes and key."""
    for place, row in enumerate(json.loads(element[1])):
      if "reason" not in row and "hashes" in row:
        # As text: Beam's whole numbers have a sign, and these need all 64 bits.
        clip = decide.order(row, place), json.dumps([row["hashes"], row["key"]])
        for band in hashes.bands(row["hashes"]):
          yield band, clip


class LookAlike(beam.DoFn):
  """Finds the pairs of one bucket."""

  def __init__(self, most_bits: float):
    """Keeps the setting."""
    self._most_bits = most_bits

  def process(self, element: tuple[int, Iterable[Text]]) -> Iterator[tuple[int, tuple]]:
    """Yields a clip's number, and number, bits and key of an earlier one."""
    clips = [(number, *json.loads(text)) for number, text in element[1]]
    keys = {number: key for number, _, key in clips}
    pairs = [(number, frames) for number, frames, _ in clips]
    for number, earlier, bits in hashes.first_alike(pairs, self._most_bits):
      yield number, (earlier, bits, keys[earlier])


class LineOfClip(beam.DoFn):
  """Says which line a clip is of."""

  def process(self, element: tuple[int, tuple]) -> Iterator[tuple[int, tuple]]:
    """Yields the line, and the clip's number with what it looks like."""
    yield decide.line_of(element[0]), element


class MarkAlike(beam.DoFn):
  """Rejects the clips of a line that look like earlier ones."""

  def process(self, element: tuple[int, dict[str, Iterable]]) -> Iterator[Text]:
    """Yields the rows of the line."""
    number, found = element
    near = dict(found["near"])
    for text in found["rows"]:
      if near:
        rows = json.loads(text)
        for place, row in enumerate(rows):
          if pair := near.get(decide.order(row, place)):
            _, bits, key = pair
            rows[place] = decide.alike(row, key, bits)
        text = json.dumps(rows)
      yield number, text


class PartOfLine(beam.DoFn):
  """Says which part a line goes to."""

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
