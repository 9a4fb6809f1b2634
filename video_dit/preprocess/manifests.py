"""Manifests: JSONL, CSV, TSV or Parquet files whose lines name media, read line by line.

Relative paths are relative to the manifest, and stay below its folder. Columns are known
by their names in small letters, without spaces around them.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import csv
import dataclasses
import functools
import itertools
import json
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

from absl import logging
import pyarrow
import pyarrow.parquet

from video_dit.preprocess import caption_fields, caption_lists, inputs, remote, spelling

PATH_NAMES = ("path", "file", "filename", "file_name", "video", "image", "media")
START_NAMES = ("start_seconds", "start")
END_NAMES = ("end_seconds", "end")
_KNOWN = (
  *(*PATH_NAMES, *START_NAMES, *END_NAMES, "split"),
  *(*caption_lists.NAMES, *caption_lists.LIST_NAMES, *caption_lists.WEIGHT_NAMES),
)
_SHOWN, _MOST_NAME = 8, 80  # columns that are not read, and characters of their names
_FIELD_BYTES = 1 << 24
_MOST_HELD = 256  # lines of a field


def lines(path: pathlib.Path) -> Iterator[inputs.Line]:
  """Yields the lines of a local manifest; those of remote files have no stamp yet.

  Raises:
    ValueError: it is not UTF-8 or not Parquet, or has no column of paths.
  """
  suffix = path.suffix.lower()
  with open(path, "rb") as file:
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
      raise ValueError(f"{path}: is UTF-16. Save it as UTF-8.")
  if suffix in (".jsonl", ".ndjson"):
    return _of_rows(path, _read_jsonl(path))
  if suffix == ".parquet":
    return _of_rows(path, _read_parquet(path))
  return _of_rows(path, _read_tsv(path) if suffix == ".tsv" else _read_csv(path))


def require(source: str | os.PathLike[str]) -> None:
  """Refuses an input file whose name is not that of a manifest.

  Raises:
    ValueError: it is not.
  """
  if os.path.splitext(source)[1].lower() not in inputs.MANIFESTS:
    raise ValueError(
      f"--input={os.fspath(source)}: a file must be a manifest"
      f" ({', '.join(inputs.MANIFESTS)}). For single media files, name their folder."
    )


def stamped(found: Iterable[inputs.Line]) -> Iterator[inputs.Line]:
  """Adds a stamp to lines of remote files, or why there is none."""

  def call(
    line: inputs.Line,
  ) -> tuple[inputs.Line, Callable[[inputs.Line], inputs.Line] | None]:
    if line.error is not None or not remote.is_remote(line.file):
      return line, None
    try:
      return line, functools.partial(_stamped, remote.stamping(line.file))
    except ValueError as error:  # unsupported kind of path
      return dataclasses.replace(line, error=("bad_line", str(error))), None

  return remote.in_order(map(call, found))


def _stamped(stamp: Callable[[], str | None], line: inputs.Line) -> inputs.Line:
  try:
    found = stamp()
  except PermissionError as error:
    refused = "unreachable", error.strerror or str(error)
    return dataclasses.replace(line, error=refused)
  if found is None:
    missing = "missing", "there is no such file"
    return dataclasses.replace(line, error=missing)
  return dataclasses.replace(line, stamp=found)


class _Row(NamedTuple):
  """A row of a manifest.

  Attributes:
    place: where it begins, as shown to the user behind the manifest's name.
    fields: by the names of their columns, or what is wrong with the row.
  """

  place: str
  fields: Mapping[str, Any] | str


def _read_jsonl(path: pathlib.Path) -> Iterator[_Row]:
  """Yields the lines that are not blank; logs unread names."""
  unread: dict[str, None] = {}  # in the order of the lines, as many as are shown
  with open(path, "rb") as file:
    for number, data in enumerate(file, 1):
      if not data.strip():
        continue
      place = f":{number}"
      try:
        row = json.loads(data.decode("utf-8-sig", "surrogateescape"))
      except (ValueError, RecursionError) as error:
        yield _Row(place, f"is not JSON ({error})")
        continue
      if not isinstance(row, dict):
        yield _Row(place, "is not a JSON object")
        continue
      row = caption_lists.plain(row)
      if len(unread) <= _SHOWN:
        unread |= dict.fromkeys(name[:_MOST_NAME] for name in row if name not in _KNOWN)
      yield _Row(place, row)
  _log_unread(path, list(unread), "")


def _read_csv(path: pathlib.Path) -> Iterator[_Row]:
  csv.field_size_limit(_FIELD_BYTES)
  with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
    reader = csv.reader(file, strict=True)
    names = _columns(path, next(reader, []))
    while True:
      place = f":{reader.line_num + 1}"  # A field may span several lines.
      try:
        fields = next(reader)
      except StopIteration:
        return
      except csv.Error as error:
        yield _Row(place, f"is not CSV ({error})")
        continue
      if fields:
        yield _Row(place, _named(names, fields))


def _read_tsv(path: pathlib.Path) -> Iterator[_Row]:
  """Tables with tabs, where some quote fields and others have quotes in them.

  A field wholly in quotes is taken out of them, over several lines where none of the
  further ones has as many fields as a row, and at most `_MOST_HELD`. Any other quote
  stands for itself.
  """
  with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
    names = _columns(path, _fields(file.readline().rstrip("\n"))[0])
    held: list[str] = []  # lines that a quote at the beginning of a field holds open

    def rows(last: int) -> Iterator[_Row]:
      """A row for each line that is held, the last of which has this number."""
      for number, line in enumerate(held, last - len(held) + 1):
        yield _Row(f":{number}", _named(names, line.split("\t")))

    number = 1
    for number, text in enumerate(file, 2):
      text = text.rstrip("\n")
      if held and (text.count("\t") + 1 >= len(names) or len(held) == _MOST_HELD):
        yield from rows(number - 1)
        held = []
      if not held and not text:
        continue
      held.append(text)
      if len(held) > 1 and not _CLOSES.search(text):
        continue
      fields, is_open = _fields("\n".join(held))
      if not is_open:
        yield _Row(f":{number - len(held) + 1}", _named(names, fields))
        held = []
    yield from rows(number)


# Possessive: no backtracking over what is not closed.
_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"(?=\t|\Z)')
_CLOSES = re.compile(r'"(?=\t|\Z)')
_PLAIN = re.compile(r"[^\t]*")


def _fields(text: str) -> tuple[list[str], bool]:
  """Fields between tabs, and whether a quote before one of them is not closed."""
  fields, at, is_open = [], 0, False
  while True:
    if found := _QUOTED.match(text, at):
      fields.append(found[1].replace('""', '"'))
    else:
      is_open = is_open or text.startswith('"', at)
      found = _PLAIN.match(text, at)
      assert found is not None
      fields.append(found[0])
    at = found.end() + 1
    if at > len(text):
      return fields, is_open


def _named(names: list[str], fields: list[str]) -> Mapping[str, Any] | str:
  if len(fields) > len(names):
    return "has more fields than the header"
  return dict(itertools.zip_longest(names, fields))


def _read_parquet(path: pathlib.Path) -> Iterator[_Row]:
  try:
    opened = pyarrow.parquet.ParquetFile(path)
  except pyarrow.ArrowInvalid as error:
    raise ValueError(
      f"{path}: is not Parquet, or damaged ({error}) Write it again."
    ) from error
  with opened as file:
    names = file.schema_arrow.names
    pairs = zip(names, _columns(path, names), strict=True)
    wanted = [name for name, plain in pairs if plain in _KNOWN]
    numbers = itertools.count(1)
    for batch in file.iter_batches(batch_size=1024, columns=wanted):
      for row in batch.to_pylist():
        yield _Row(f", row {next(numbers)}", caption_lists.plain(row))


def _columns(path: pathlib.Path, names: Sequence[str]) -> list[str]:
  """The normalized names of a table's columns; logs which are not read."""
  found = [caption_lists.plain_name(name) for name in names]
  if not set(found) & set(PATH_NAMES):
    raise ValueError(
      f"{path}: has columns {', '.join(map(repr, names)) or 'none'}, but none of"
      f" them names the files. Name one of them {', '.join(PATH_NAMES)}."
    )
  twice = [name for name in _KNOWN if found.count(name) > 1]
  if twice:
    raise ValueError(f"{path}: has several columns named {twice[0]!r}. Keep one of them.")
  unread = [name for name in found if name not in _KNOWN]
  _log_unread(path, unread, f"{len(unread) - _SHOWN} ")
  return found


def _log_unread(path: pathlib.Path, names: Sequence[str], number: str) -> None:
  """Logs names that are not read; `number` of those that are not shown, if known."""
  if names:
    more = f" and {number}more" if len(names) > _SHOWN else ""
    shown = ", ".join(map(repr, names[:_SHOWN]))
    logging.warning("%s: ignored columns: %s%s", path, shown, more)


def _of_rows(path: pathlib.Path, rows: Iterator[_Row]) -> Iterator[inputs.Line]:
  root = os.path.abspath(path.parent)
  disk = spelling.Disk(root)
  for place, fields in rows:
    where = f"{inputs.printable(path.name)}{place}"
    if isinstance(fields, str):
      yield inputs.Line(path=where, error=("bad_line", f"{where} {fields}"))
      continue
    try:
      yield _from_row(root, disk, fields)
    except ValueError as error:
      yield inputs.Line(path=where, error=("bad_line", f"{where}: {error}"))


def _from_row(root: str, disk: spelling.Disk, row: Mapping[str, Any]) -> inputs.Line:
  name = caption_fields.first(row, PATH_NAMES)
  if not isinstance(name, str) or not name or "\0" in name:
    raise ValueError(f"names no file (one of {', '.join(PATH_NAMES)})")
  captions = caption_fields.of_row(row)
  start, end = _seconds(row, START_NAMES), _seconds(row, END_NAMES)
  if end is not None and end <= (start or 0.0):
    raise ValueError(f"end_seconds={end} must be after start_seconds={start or 0.0}")
  value = caption_fields.first(row, ("split",))
  split = "" if value is None else str(value).strip().lower()
  if split and split not in inputs.SPLITS:
    raise ValueError(f"split={split!r} must be train or validation")
  file, error = name, None
  if not remote.is_remote(name):
    file = os.path.normpath(os.path.join(root, name))
    if file.startswith(os.path.join(root, "")):
      file = disk.path(file)
    else:
      message = (
        f"{inputs.printable(name)!r} points outside the manifest's folder; move the"
        " manifest to a common parent"
      )
      error = ("outside", message)
  return inputs.Line(
    path=inputs.printable(file),
    file=file,
    **captions,
    split=inputs.SPLITS.get(split, ""),
    start_seconds=start or 0.0,
    end_seconds=end,
    error=error,
  )


def _seconds(row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
  value = caption_fields.first(row, names)
  if value is None:
    return None
  try:
    seconds = float(value)
  except OverflowError:
    seconds = math.inf
  except (TypeError, ValueError):
    raise ValueError(f"{names[0]}={value!r} must be a number of seconds") from None
  if not 0 <= seconds < float("inf"):
    raise ValueError(f"{names[0]}={str(value)[:80]} must be a finite number, 0 or above")
  return seconds
