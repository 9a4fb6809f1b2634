"""Files of prompts: a prompt a line, or an object a line."""

import difflib
import json
import math
import os
import pathlib
from typing import Any

# Keys of a line of a JSONL file.
_NUMBERS: dict[str, type] = {
  "height": int,
  "width": int,
  "frames": int,
  "seed": int,
  "given_frames": int,
}
_NUMBERS |= {"frames_per_second": float, "guidance": float}
# What a clip of the demo must show: kept with its sample, for `evaluate` to measure.
TRUTH = ("colour", "shape", "direction", "background")
KEYS = ("prompt", "negative", *_NUMBERS, "given", *TRUTH)
_SUFFIXES = (".txt", ".jsonl")


def read(name: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The lines of a file of prompts, each a mapping with a prompt and some of `KEYS`.

  Args:
    name: a `.txt` file with a prompt a line (empty lines are skipped), or a `.jsonl`
      file with an object a line; in UTF-8.

  Raises:
    ValueError: there is no such file, or a line is not as described; the message names
      the file and the line.
  """
  path = pathlib.Path(name)
  hint = "Name a .txt with a prompt on each line, or a .jsonl with an object on each."
  if not path.is_file():
    why = "that is not a file" if path.exists() else "there is no such file"
    raise ValueError(f"--prompts={path}: {why}. {hint}")
  suffix = path.suffix.lower()
  if suffix not in _SUFFIXES:
    raise ValueError(
      f"--prompts={path}: the suffix {path.suffix!r} is not one of"
      f" {', '.join(_SUFFIXES)}. {hint}"
    )
  found = []
  for number, text in enumerate(_text(path).split("\n"), 1):
    text = text.strip()
    if text:
      where = f"{path}:{number}"
      line = _object(text, where) if suffix == ".jsonl" else {"prompt": text}
      found.append(_checked(line, where))
  return found


def truth(line: dict[str, Any]) -> dict[str, str]:
  """What a line says that its clip must show."""
  return {key: line[key] for key in TRUTH if key in line}


def check_text(text: str, where: str) -> None:
  """Refuses characters that no file or tokenizer can hold, as in wrongly decoded text.

  Raises:
    ValueError: names the text and the character.
  """
  wrong = next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
  if wrong is not None:
    raise ValueError(
      f"{where}: {text[:60]!r} contains {wrong!r}, which is not a text character. Write"
      " it in UTF-8."
    )


def _text(path: pathlib.Path) -> str:
  content = path.read_bytes()
  try:
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    number = content.count(b"\n", 0, error.start) + 1
    line = content.split(b"\n")[number - 1][:40]
    raise ValueError(
      f"{path}:{number}: is not UTF-8 (byte {content[error.start]:#x} in {line!r}). Save"
      " the file as UTF-8."
    ) from None


def _object(text: str, where: str) -> dict[str, Any]:
  try:
    line = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{where}: is not JSON ({error}). Write an object a line.") from None
  if not isinstance(line, dict):
    raise ValueError(f'{where}: must be an object like {{"prompt": "a red circle"}}.')
  return line


def _checked(line: dict[str, Any], where: str) -> dict[str, Any]:
  """The line with its numbers converted; refuses unknown keys and wrong values."""
  if "prompt" not in line:
    raise ValueError(f"{where}: has no 'prompt'. Use an empty text for any clip.")
  for key, value in line.items():
    if key not in KEYS:
      near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(f"{where}: unknown key {key!r}.{hint} Keys: {', '.join(KEYS)}.")
    if key in _NUMBERS:
      _check_number(key, value, where)
    elif not isinstance(value, str):
      raise ValueError(f"{where}: {key}={value!r} must be text.")
    else:
      check_text(value, where)
  if "given_frames" in line:
    if line["given_frames"] < 1:
      raise ValueError(
        f"{where}: given_frames={line['given_frames']} must be at least 1. Leave out"
        " 'given' and 'given_frames' for a clip without given frames."
      )
    if not line.get("given"):
      raise ValueError(f"{where}: given_frames needs 'given', the file of the frames.")
  return line


def _check_number(key: str, value: Any, where: str) -> None:
  whole = type(value) is int
  if whole and abs(value) >= 2**64:
    raise ValueError(f"{where}: {key} has {len(str(abs(value)))} digits: too many.")
  if _NUMBERS[key] is int and not whole:
    raise ValueError(f"{where}: {key}={value!r} must be a whole number.")
  if not (whole or (type(value) is float and math.isfinite(value))):
    raise ValueError(f"{where}: {key}={value!r} must be a number.")
