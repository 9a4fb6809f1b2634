"""Requests from flags and from files of prompts."""

from collections.abc import Iterator, Sequence
import difflib
import json
import math
import pathlib
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.generator import request as request_lib
from video_dit.media import decode, resize

# Keys of a line of a JSONL file.
_NUMBERS: dict[str, type] = {
  "height": int,
  "width": int,
  "frames": int,
  "seed": int,
  "given_frames": int,
}
_NUMBERS |= {"frames_per_second": float, "guidance": float}
# What a clip of the demo must show: kept beside its sample, for `evaluate` to measure.
TRUTH = ("colour", "shape", "direction", "background")
KEYS = ("prompt", *_NUMBERS, "given", *TRUTH)


def lines(prompts: Sequence[str], files: Sequence[str]) -> list[dict[str, Any]]:
  """Prompts of the flags, then of the files, as one mapping each with some of `KEYS`.

  Args:
    prompts: prompt texts; each may be empty.
    files: `.txt` files with a prompt a line (empty lines are skipped), or `.jsonl` files
      with an object a line.

  Raises:
    ValueError: there is no prompt at all, or a line is not as described; the message
      names the file and the line.
  """
  found: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
  for name in files:
    path = pathlib.Path(name)
    if not path.is_file():
      why = "that is no file" if path.exists() else "there is no such file"
      raise ValueError(
        f"--prompts={name}: {why}. Name a .txt with a prompt on each line, or a .jsonl."
      )
    read = _read_jsonl if path.suffix == ".jsonl" else _read_text
    found.extend(read(path))
  if not found:
    raise ValueError("No prompt was given. Pass --prompt='...' or --prompts=FILE.")
  return found


def requests(
  found: Sequence[dict[str, Any]],
  sample: config_lib.Sample,
  media: config_lib.Media,
) -> list[request_lib.Request]:
  """Requests of `lines`; what a line leaves out comes from the config.

  The seed of the i-th prompt is `sample.seed + i` where the line has none. Given frames
  are decoded and brought to the request's size.
  """
  return [_request(line, i, sample, media) for i, line in enumerate(found)]


def truth(line: dict[str, Any]) -> dict[str, str]:
  """What the line says that its clip must show."""
  return {key: line[key] for key in TRUTH if key in line}


def _request(line, index, sample, media) -> request_lib.Request:
  size = {k: line.get(k, getattr(sample, k)) for k in ("height", "width", "frames")}
  rate = line.get("frames_per_second", sample.frames_per_second)
  given = None
  if line.get("given"):
    given = _given(line, (size["height"], size["width"]), rate, media)
  return request_lib.Request(
    prompt=line["prompt"],
    **size,
    frames_per_second=float(rate),
    seed=line.get("seed", sample.seed + index),
    guidance=line.get("guidance"),
    given_FHWC=given,
  )


def _given(line, size, rate, media) -> np.ndarray:
  """The first `given_frames` frames (1 where it does not say) of a file, resized."""
  wanted, frames = line.get("given_frames", 1), []
  for frame in decode.frames(line["given"], media):
    frames.append(resize.resize(frame, size))
    if len(frames) == wanted:
      return np.stack(frames)
  raise ValueError(
    f"given={line['given']}: {wanted} frames are wanted, the file has {len(frames)}."
    " Lower given_frames."
  )


def _read_text(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  for line in path.read_text(encoding="utf-8").splitlines():
    if line.strip():
      yield {"prompt": line.strip()}


def _read_jsonl(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
    if not text.strip():
      continue
    where = f"{path}:{number}"
    try:
      line = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(
        f"{where}: is not JSON ({error}). Write one object a line."
      ) from None
    if not isinstance(line, dict):
      raise ValueError(f'{where}: must be an object like {{"prompt": "a red circle"}}.')
    yield _checked(line, where)


def _checked(line: dict[str, Any], where: str) -> dict[str, Any]:
  """Refuses unknown keys and wrong types."""
  for key, value in line.items():
    if key not in KEYS:
      near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
      hint = f" Did you mean {near[0]!r}?" if near else ""
      raise ValueError(f"{where}: unknown key {key!r}.{hint} Keys: {', '.join(KEYS)}.")
    kind = _NUMBERS.get(key)
    whole = type(value) is int
    if kind is int and not whole:
      raise ValueError(f"{where}: {key}={value!r} must be a whole number.")
    if kind is float and not (whole or (type(value) is float and math.isfinite(value))):
      raise ValueError(f"{where}: {key}={value!r} must be a number.")
    if key not in _NUMBERS and not isinstance(value, str):
      raise ValueError(f"{where}: {key}={value!r} must be text.")
  if "prompt" not in line:
    raise ValueError(f"{where}: has no 'prompt'. Use an empty text for any clip.")
  return line
