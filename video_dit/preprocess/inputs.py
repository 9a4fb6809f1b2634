"""What the input names: a line for each file or record, before any is opened."""

import dataclasses
import os
from typing import Any

SPLITS = {"train": "train", "training": "train"} | dict.fromkeys(
  ("validation", "valid", "val", "test", "dev", "held_out"), "validation"
)
MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Line:
  """One line of the input.

  Attributes:
    path: as shown to the user: the absolute path as text, or the manifest's line.
    file: absolute path that is opened; for TFDS the data set's reference.
    record: index in a TFDS split, None for files.
    caption: the first of all; empty where there is none, None where the data set itself
      holds it.
    captions, caption_weights: all of them where there are several, and how often each
      is to be taken; empty where there is one or none.
    recoded: the caption was not UTF-8 and was read as Windows-1252 or UTF-16.
    split: `train`, `validation`, or empty to be chosen by the file's bytes.
    start_seconds, end_seconds: the part of the file that is wanted; None: to its end.
    stamp: changes when a remote file does; empty for local ones.
    error: (reason, message) of a line that is refused before its file is opened.
  """

  path: str
  file: str = ""
  record: int | None = None
  caption: str | None = ""
  captions: tuple[str, ...] = ()
  caption_weights: tuple[float, ...] = ()
  recoded: bool = False
  split: str = ""
  start_seconds: float = 0.0
  end_seconds: float | None = None
  stamp: str = ""
  error: tuple[str, str] | None = None


def from_json(values: dict[str, Any]) -> Line:
  """A line from its fields, as JSON gives them back."""
  values = dict(values)
  for name in ("error", "captions", "caption_weights"):
    values[name] = None if values[name] is None else tuple(values[name])
  return Line(**values)


def printable(path: str | os.PathLike[str]) -> str:
  """The path as text that any file can hold; bytes that are not UTF-8 are escaped."""
  return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
