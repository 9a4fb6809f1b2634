"""Where clips come from: a folder, a manifest or a TFDS data set, one line at a time.

A folder is walked in sorted order. The caption of `clip.mp4` is `clip.txt` or
`clip.mp4.txt` beside it; `clip.json` holds several (`caption_lists`). Hidden files are
left out; every other file is a line, so that files that are not media are listed among
the rejects. A manifest (`manifests`) is used only where it is itself the input. Lines are
yielded, never gathered.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import errno
import os
import pathlib
import stat as stat_lib
from typing import Any
import unicodedata

from video_dit.preprocess import caption_lists, remote

SPLITS = {"train": "train", "training": "train"} | dict.fromkeys(
  ("validation", "valid", "val", "test", "dev", "held_out"), "validation"
)
MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_BESIDE = (".json", ".txt")
_MOST_BYTES = 1 << 24  # of a file with captions
_WIDE = (
  *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
  *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


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


def lines(
  source: str | os.PathLike[str], output: str | os.PathLike[str] = ""
) -> Iterator[Line]:
  """Yields the lines of a folder, manifest or `tfds:name[:split]`, in a fixed order.

  Args:
    source: what to list.
    output: a folder that is skipped if it is inside the source.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: a file that is not a manifest, or a manifest without a column of paths; or
      the output is the source.
  """
  if str(output).rstrip("/") == str(source).rstrip("/"):
    raise _same(source)
  if str(source).startswith("tfds:"):
    from video_dit.preprocess import tfds_source

    return tfds_source.lines(str(source)[len("tfds:") :])
  if remote.is_remote(source):
    from video_dit.preprocess import remote_sources

    return remote_sources.lines(str(source), str(output))
  path = pathlib.Path(source)
  if not path.exists():
    raise FileNotFoundError(
      f"--input={source}: no such folder or file. Name a folder of media, a"
      " manifest, or tfds:name."
    )
  if path.is_dir():
    if not os.access(path, os.R_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"--input={source}")
    if (path / "dataset_info.json").is_file() and (path / "features.json").is_file():
      from video_dit.preprocess import tfds_source

      return tfds_source.lines(str(path))
    if os.path.isdir(output) and os.path.samefile(path, output):
      raise _same(source)
    return _folder(os.path.abspath(path), output)
  from video_dit.preprocess import manifests

  manifests.require(source)
  return manifests.stamped(manifests.lines(path))


def _same(source: str | os.PathLike[str]) -> ValueError:
  return ValueError(
    f"--output={source} is the --input: its files would be read as media."
    f" Name another folder, possibly one inside it, like {os.path.join(source, 'data')}."
  )


def printable(path: str | os.PathLike[str]) -> str:
  """The path as text that any file can hold; bytes that are not UTF-8 are escaped."""
  return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# ------------------------------------------------------------------------------ folders


def _folder(root: str, output: str | os.PathLike[str]) -> Iterator[Line]:
  """Walks a folder; a folder met twice by way of symbolic links is entered once."""
  seen: set[tuple[int, int]] = set()
  if os.path.isdir(output):
    stat = os.stat(output)
    seen.add((stat.st_dev, stat.st_ino))
  problems: list[OSError] = []
  for folder, folders, names in os.walk(root, followlinks=True, onerror=problems.append):
    yield from _refused(problems)
    stat = os.stat(folder)
    if (stat.st_dev, stat.st_ino) in seen:
      folders.clear()
      continue
    seen.add((stat.st_dev, stat.st_ino))
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    names = sorted(n for n in names if not n.startswith("."))
    for line, beside in listing(folder, names):
      yield captioned(line, beside, _read_bytes)
  yield from _refused(problems)


def _refused(problems: list[OSError]) -> Iterator[Line]:
  """Lines of the folders that could not be listed, which are then cleared."""
  for problem in problems:
    yield refused(problem.filename, problem.strerror or str(problem))
  problems.clear()


def refused(folder: str, problem: str) -> Line:
  """The line of a folder that cannot be listed, or not all of it."""
  message = f"cannot list the folder: {problem}"
  return Line(path=printable(folder), file=folder, error=("unreachable", message))


def _read_bytes(path: str) -> bytes:
  stat = os.stat(path)
  if not stat_lib.S_ISREG(stat.st_mode):  # A pipe would never end.
    raise ValueError("is not a regular file")
  if stat.st_size > _MOST_BYTES:
    raise ValueError(f"has {stat.st_size:,} bytes; the limit is {_MOST_BYTES:,}")
  with open(path, "rb") as file:
    return file.read()


def listing(folder: str, names: list[str]) -> Iterator[tuple[Line, tuple[str, ...]]]:
  """Yields the lines of one folder, and the files that may hold their captions.

  Args:
    folder: its path.
    names: of the files in it, sorted.
  """
  # By stem, then by suffix, whatever their case.
  beside: dict[str, dict[str, str]] = {}
  for name in names:
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in _BESIDE:
      beside.setdefault(stem, {})[suffix.lower()] = name
  texts = {n for n in names if n.lower().endswith(".txt")}
  media = {n for n in names if n not in texts and not n.lower().endswith(".json")}
  stems = media | {os.path.splitext(n)[0] for n in media}
  lists = {n for n in names if n.lower().endswith(".json") and n[:-5] in stems}
  used = set()
  for name in (n for n in names if n not in texts and n not in lists):
    file = os.path.join(folder, name)
    shown = printable(file)
    there = [beside.get(stem, {}) for stem in (os.path.splitext(name)[0], name)]
    found = [its[suffix] for its in there for suffix in _BESIDE if suffix in its]
    found = [n for n in found if n in texts or n in lists]
    used.update(found)
    if os.path.splitext(name)[1].lower() in MANIFESTS:
      message = "a manifest is read only if it is itself the --input"
      yield Line(path=shown, file=file, error=("not_media", message)), ()
      continue
    line = Line(path=shown, file=file)
    yield line, tuple(os.path.join(folder, n) for n in found)
  for name in sorted(texts - used):
    file = os.path.join(folder, name)
    shown = printable(file)
    message = "a caption without a media file of the same name beside it"
    yield Line(path=shown, file=file, error=("no_media", message)), ()


# ----------------------------------------------------------------------------- captions


def captioned(line: Line, beside: Sequence[str], read: Callable[[str], bytes]) -> Line:
  """The line with its captions, of the first of the files beside it that holds any."""
  for path in beside:
    name = printable(os.path.basename(path))
    try:
      fields = _sidecar(name, read(path))
    except OSError as problem:
      message = f"caption {name}: {problem.strerror or problem}"
      return dataclasses.replace(line, error=("unreachable", message))
    except ValueError as problem:
      message = f"caption {name}: {problem}"
      return dataclasses.replace(line, error=("bad_line", message))
    if fields is not None:
      return dataclasses.replace(line, **fields)
  return line


def _sidecar(name: str, data: bytes) -> dict[str, Any] | None:
  """The fields of a line that hold the captions of a file beside the media."""
  if name.lower().endswith(".json"):
    found = caption_lists.parse(data)
    return None if found is None else caption_fields(found)
  caption, recoded = _decode(data)
  return {"caption": caption, "recoded": recoded}


def _decode(data: bytes) -> tuple[str, bool]:
  """Text of a caption, and whether it was not UTF-8 and was read in another encoding."""
  wide = next((name for mark, name in _WIDE if data.startswith(mark)), "")
  if not wide and 4 * data.count(0) > len(data):  # as half of UTF-16 is, in Latin
    wide = "utf-16-be" if data[0] == 0 else "utf-16-le"
  if not wide:
    try:
      return _clean(data.decode("utf-8-sig")), False
    except UnicodeDecodeError:
      wide = "cp1252"
  return _clean(data.decode(wide, "replace")), True


def _clean(text: str) -> str:
  """One line, no control characters, no double spaces."""
  if not text.isprintable():
    # Joiners and non-joiners belong to the letters.
    text = "".join(
      c if c.isprintable() or unicodedata.category(c) == "Cf" else " " for c in text
    )
  return " ".join(text.split())


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
  """The value of the first of these names that has one, not blank; else None."""
  values = (row.get(name) for name in names)
  return next((v for v in values if v is not None and not _is_blank(v)), None)


def _is_blank(value: Any) -> bool:
  return isinstance(value, str | bytes) and not value.strip()


def caption_fields(row: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a line that hold its captions."""
  several = caption_lists.read(row)
  if several is None or not several.texts:
    caption, recoded = _caption(first(row, caption_lists.NAMES))
    return {"caption": caption, "recoded": recoded}
  read = [_caption(text) for text in several.texts]
  texts, weights = tuple(text for text, _ in read), several.weights
  best = texts[max(range(len(texts)), key=weights.__getitem__)]
  fields: dict[str, Any] = {"caption": best, "recoded": any(odd for _, odd in read)}
  return fields | {"captions": texts, "caption_weights": weights}


def _caption(value: Any) -> tuple[str, bool]:
  if value is None:
    return "", False
  if isinstance(value, bytes):
    return _decode(value)
  if not isinstance(value, str):
    raise ValueError(f"caption={value!r} must be text")
  return _decode(value.encode("utf-8", "surrogateescape"))
