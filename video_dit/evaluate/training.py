"""The training clips, as `clips.parquet` of the data set lists them."""

from collections.abc import Iterable
import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from video_dit import config as config_lib
from video_dit.media import decode

_COLUMNS = (
  *("path", "caption", "split", "kind", "start_seconds", "frames_per_second"),
  *("frames", "height", "width"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
  """One clip: where it is, and what preprocess made of it.

  Attributes:
    path: media file.
    caption: of the clip.
    kind: `video` or `image`.
    start_seconds: where it starts in the file.
    frames_per_second: rate that the file was resampled to; 0 or None is its own.
    frames, height, width: of the clip.
  """

  path: str
  caption: str
  kind: str
  start_seconds: float
  frames_per_second: float | None
  frames: int
  height: int
  width: int

  @property
  def size(self) -> tuple[int, int, int]:
    """Frames, height and width."""
    return self.frames, self.height, self.width

  def decode(self, media: config_lib.Media) -> np.ndarray:
    """Reads the clip again: `(frames, height, width, 3)` uint8.

    Raises:
      MediaError: the file is gone or no good.
    """
    media = dataclasses.replace(media, frames_per_second=self.frames_per_second or 0.0)
    frames = decode.frames(
      self.path, media, size=(self.height, self.width), start_seconds=self.start_seconds
    )
    return np.stack(list(itertools.islice(frames, self.frames)))


def clips(
  path: pathlib.Path, split: str, media: pathlib.Path | None = None
) -> list[Clip]:
  """Reads the clips of one split from `clips.parquet`.

  Args:
    path: the table.
    split: `train` or `validation`.
    media: folder of the media files, where they have moved since.

  Raises:
    ValueError: as `check`.
  """
  check(path)
  rows: list[dict[str, Any]] = pyarrow.parquet.read_table(
    path, columns=list(_COLUMNS)
  ).to_pylist()
  found = []
  for row in rows:
    if row.pop("split") == split:
      if media is not None:
        row["path"] = str(media / pathlib.Path(row["path"]).name)
      found.append(Clip(**row))
  return found


def check(path: pathlib.Path) -> None:
  """Refuses a table that is not there or not one of clips; none is read.

  Raises:
    ValueError: the path, and what it should be.
  """
  what = "Name the clips.parquet of the data set, or the folder of its media files."
  if not path.is_file():
    raise ValueError(f"--training={path}: there is no such file. {what}")
  try:
    found = pyarrow.parquet.read_schema(path).names
  except (OSError, pa.ArrowInvalid) as error:
    raise ValueError(f"--training={path}: is no Parquet file ({error}). {what}") from None
  missing = [name for name in _COLUMNS if name not in found]
  if missing:
    raise ValueError(f"--training={path}: has no column {missing[0]!r}. {what}")


def spread(clips: Iterable[Clip], most: int, *, sizes: int = 3) -> list[Clip]:
  """At most `most` clips, in turns from the `sizes` commonest frame sizes."""
  by_size: dict[tuple[int, int], list[Clip]] = {}
  for clip in clips:
    by_size.setdefault(clip.size[1:], []).append(clip)
  queues = sorted(by_size.values(), key=len, reverse=True)[:sizes]
  rounds = itertools.zip_longest(*queues)
  turns = (clip for turn in rounds for clip in turn if clip is not None)
  return list(itertools.islice(turns, most))
