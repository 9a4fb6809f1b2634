"""Captions of an input line, from the columns of a manifest or a file beside the media.

They are text in UTF-8, else UTF-16 or UTF-32 by its mark, else Windows-1252.
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
from typing import Any
import unicodedata

from video_dit.preprocess import caption_lists, inputs

_WIDE = (
  *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
  *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)


def beside(
  line: inputs.Line, paths: Sequence[str], read: Callable[[str], bytes]
) -> inputs.Line:
  """The line with its captions, of the first of the files beside it that holds any."""
  for path in paths:
    name = inputs.printable(os.path.basename(path))
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
    return None if found is None else of_row(found)
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


def of_row(row: Mapping[str, Any]) -> dict[str, Any]:
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
