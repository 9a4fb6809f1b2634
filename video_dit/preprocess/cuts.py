"""How a file becomes clips: which frames, of which size, under which key.

Pure arithmetic on what is known of a file, so that a changed limit needs no new look at
the files themselves.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
from typing import Any

from video_dit import config as config_lib
from video_dit.media import resize

# Increment when the same settings give different pixels.
VERSION = 3
KEY_DIGITS = 32


class CutError(ValueError):
  """A file that yields no clip; `reason` is one word for the table of rejects."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason


def grid_of(config: config_lib.Config) -> config_lib.Grid:
  """The grid that a config asks for, where its limits leave room for a clip.

  Raises:
    ValueError: the least clip exceeds a limit.
  """
  grid, media = config_lib.Grid.of(config), config.media
  cell = grid.cell
  if cell * cell > media.max_pixels:
    raise ValueError(
      f"config.media.max_pixels={media.max_pixels} is less than one token of"
      f" {cell}x{cell} pixels (autoencoder.space * dit.patch). Raise it to"
      f" {cell * cell} or more."
    )
  if not grid.floor(media.max_frames):
    raise ValueError(
      f"config.media.max_frames={media.max_frames} is less than one token of"
      f" {grid.least} frames. Raise it."
    )
  return grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
  """One clip of a file.

  Attributes:
    key: 32 hexadecimal digits of the file's bytes, the cut and the pixels' settings.
    first_frame: at the clip's frame rate, counted from the requested start.
    frames, height, width: of the clip.
    frames_dropped: frames after it that no clip has.
    latent: latent frames, rows and columns.
    tokens: of the transformer.
    shot: number of the shot in the file, from 0.
  """

  key: str
  first_frame: int
  frames: int
  height: int
  width: int
  frames_dropped: int
  latent: tuple[int, int, int]
  tokens: int
  shot: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
  """A shot of a file that yields no clip, and why."""

  first_frame: int
  frames: int
  reason: str
  message: str


def cut_shots(
  facts: Mapping[str, Any], media: config_lib.Media, grid: config_lib.Grid, **part: Any
) -> tuple[list[Clip], list[Dropped]]:
  """Cuts each shot of a file into clips: no clip spans a cut.

  Args:
    facts: of the file; `cuts` are the first frames of all shots but the first.
    media: limits.
    grid: what the models ask for.
    **part: `start_seconds` and `end_seconds`, of the requested part.

  Raises:
    CutError: a file of one shot yields no clip.
  """
  starts = [0, *facts["cuts"]]
  shots = list(zip(starts, [*starts[1:], facts["frames"]], strict=True))
  if len(shots) == 1:
    return cut(facts, media, grid, **part), []
  clips, dropped = [], []
  for number, (first, end) in enumerate(shots):
    try:
      found = cut(facts, media, grid, first=first, end=end, **part)
    except CutError as error:
      reason = error.reason
      dropped.append(
        Dropped(
          first_frame=first,
          frames=end - first,
          reason=reason,
          message=f"a shot of {error}",
        )
      )
    else:
      clips += [dataclasses.replace(clip, shot=number) for clip in found]
  return clips, dropped


def cut(
  facts: Mapping[str, Any],
  media: config_lib.Media,
  grid: config_lib.Grid,
  *,
  start_seconds: float = 0.0,
  end_seconds: float | None = None,
  first: int = 0,
  end: int | None = None,
) -> list[Clip]:
  """Cuts one file, or one shot of it, into clips.

  A video longer than `media.max_frames` gives several clips, end to end. What is left
  behind the last one, less than a clip or less than one latent frame, is dropped and
  counted. A file of one frame is an image, whatever its format.

  Args:
    facts: of the file, as `examine` gives them.
    media: limits.
    grid: what the models ask for.
    start_seconds, end_seconds: the requested part of the file.
    first, end: frames of the shot; by default all.

  Raises:
    CutError: `too_short`, `too_long` or `no_rate`.
  """
  end = facts["frames"] if end is None else end
  total = end - first
  least = 1 if facts["kind"] == "image" else media.min_frames
  longest = grid.floor(media.max_frames)
  lasts, rate = facts.get("decoded_seconds"), media.frames_per_second
  part = math.inf if end_seconds is None else end_seconds - start_seconds
  if not total and rate and part * rate < 0.5 + 1e-6:  # Decoding need not reach the end.
    raise CutError(
      "too_short",
      f"the part from {start_seconds:g} to {end_seconds:g} s is no longer than half a"
      f" frame at config.media.frames_per_second={rate:g}. Correct the line of the"
      " manifest.",
    )
  if not total and lasts is not None and start_seconds >= lasts > 0:
    raise CutError(
      "too_short",
      f"start_seconds={start_seconds:g} is past the end of the file, which lasts"
      f" {lasts:.2f} s. Correct the line of the manifest.",
    )
  if grid.floor(total) < least or not grid.floor(total):
    raise CutError(
      "too_short",
      f"{total} frames, of which {grid.floor(total)} make whole latent frames; the least"
      f" is {max(least, grid.least)}. Raise"
      " config.media.frames_per_second, or lower config.media.min_frames.",
    )
  if grid.latent_frames(total) > 1 and not facts["frames_per_second"]:
    message = "the file has no frame rate; set config.media.frames_per_second"
    raise CutError("no_rate", message)
  if media.long == "refuse" and total >= longest + grid.span:
    raise CutError(
      "too_long",
      f"{total} frames are more than config.media.max_frames={media.max_frames}; set"
      " config.media.long to split to cut it",
    )
  size = resize.target_size(
    facts["height"], facts["width"], max_pixels=media.max_pixels, grid=grid.cell
  )
  lengths = _lengths(total, longest, least, grid)
  if media.long == "refuse":
    lengths = lengths[:1]
  clips = []
  for i, frames in enumerate(lengths):
    last = i + 1 == len(lengths)
    clips.append(
      Clip(
        key=_key(facts, media, first, frames, size, start_seconds, end_seconds),
        first_frame=first,
        frames=frames,
        height=size[0],
        width=size[1],
        frames_dropped=end - first - frames if last else 0,
        latent=grid.latent(*size, frames),
        tokens=math.prod(grid.tokens(*size, frames)),
      )
    )
    first += frames
  return clips


def _lengths(total: int, longest: int, least: int, grid: config_lib.Grid) -> list[int]:
  whole, rest = divmod(total, longest)
  tail = grid.floor(rest)
  keep_tail = tail >= least and (tail > 1 or not whole)
  return [longest] * whole + ([tail] if keep_tail else [])


def _key(
  facts: Mapping[str, Any],
  media: config_lib.Media,
  first: int,
  frames: int,
  size: tuple[int, int],
  start_seconds: float,
  end_seconds: float | None,
) -> str:
  """The clip's stable name; it depends on neither the caption nor the file's path."""
  parts = {
    "version": VERSION,
    "file": facts["sha256"],
    "cut": [start_seconds, end_seconds, first, frames],
    "frames_per_second": media.frames_per_second,
    "size": size,
  }
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
