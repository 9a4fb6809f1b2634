"""Requests from flags and from files of prompts."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.generator import prompts as prompts_lib
from video_dit.generator import request as request_lib
from video_dit.media import decode, resize


def lines(prompts: Sequence[str], files: Sequence[str]) -> list[dict[str, Any]]:
  """Prompts of the flags, then of the files, as one mapping each.

  Args:
    prompts: prompt texts; each may be empty.
    files: of prompts, as `generator.prompts` reads them.

  Raises:
    ValueError: there is no prompt at all, or a line is not as described; the message
      names the file and the line.
  """
  for prompt in prompts:
    prompts_lib.check_text(prompt, "--prompt")
  found: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
  for name in files:
    found.extend(prompts_lib.read(name))
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
  are decoded at the request's rate and brought to its size.

  Raises:
    ValueError: a frame rate out of range, a missing file of given frames, or one with
      fewer frames than a line asks for.
  """
  return [_request(line, i, sample, media) for i, line in enumerate(found)]


def _request(line, index, sample, media) -> request_lib.Request:
  size = {k: line.get(k, getattr(sample, k)) for k in ("height", "width", "frames")}
  rate = line.get("frames_per_second", sample.frames_per_second)
  request = request_lib.Request(
    prompt=line["prompt"],
    **size,
    frames_per_second=float(rate),
    seed=line.get("seed", sample.seed + index),
    guidance=line.get("guidance"),
    negative=line.get("negative", sample.negative),
  )
  if not line.get("given"):
    return request
  request.check_rate()
  return dataclasses.replace(request, given_FHWC=_given(line, request, media))


def _given(line, request: request_lib.Request, media) -> np.ndarray:
  """The first `given_frames` frames (1 where it does not say) of a file, resized."""
  if not pathlib.Path(line["given"]).is_file():
    raise ValueError(
      f"{request}: given={line['given']!r}: there is no such file. Give its path relative"
      f" to {pathlib.Path.cwd()}, or its absolute path."
    )
  wanted, frames = line.get("given_frames", 1), []
  media = dataclasses.replace(media, frames_per_second=request.frames_per_second)
  for frame in decode.frames(line["given"], media):
    frames.append(resize.resize(frame, (request.height, request.width)))
    if len(frames) == wanted:
      return np.stack(frames)
  raise ValueError(
    f"given={line['given']}: {wanted} frames are needed, but the file has {len(frames)}"
    f" at {request.frames_per_second:g} a second. Lower given_frames."
  )
