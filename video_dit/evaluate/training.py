"""The training clips, as `clips.parquet` of the data set lists them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import os
import pathlib

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

  def decode(self, media: config_lib.Media) -> np.ndarray:
    """Reads the clip again: `(frames, height, width, 3)` uint8.

    Raises:
      MediaError: the file is missing or unusable.
    """
    media = dataclasses.replace(media, frames_per_second=self.frames_per_second or 0.0)
    frames = decode.frames(
      self.path, media, size=(self.height, self.width), start_seconds=self.start_seconds
    )
    return np.stack(list(itertools.islice(frames, self.frames)))


class Clips:
  """The clips of one split of a table, of which only sizes and places are held.

  Attributes:
    sizes: `(clips, 3)` int32: frames, height and width.
  """

  def __init__(
    self,
    paths: Sequence[pathlib.Path],
    split: str,
    media: pathlib.Path | None = None,
  ):
    """Looks through `clips.parquet`.

    Args:
      paths: the tables, one for each data set.
      split: `train` or `validation`.
      media: folder of the media files, where they have moved since.

    Raises:
      ValueError: as `check`.
    """
    for path in paths:
      check(path)
    self._paths = paths
    self._place = _places(paths, media) if media else None
    parts, start = [np.empty((0, 4), np.int64)], 0
    for batch in _batches(paths, ("split", "frames", "height", "width")):
      rows = np.flatnonzero(np.asarray(batch["split"].to_pylist()) == split)
      found = [batch[name].to_numpy()[rows] for name in ("frames", "height", "width")]
      parts.append(np.stack([start + rows, *found], axis=1))
      start += len(batch)
    table = np.concatenate(parts)
    self._rows, self.sizes = table[:, 0], table[:, 1:].astype(np.int32)

  def __len__(self) -> int:
    return len(self._rows)

  def counts(self) -> dict[tuple[int, int, int], int]:
    """How many clips have each frames, height and width, as these first appear."""
    sizes, first, counts = np.unique(
      self.sizes, axis=0, return_index=True, return_counts=True
    )
    order = np.argsort(first)
    found = zip(sizes[order].tolist(), counts[order].tolist(), strict=True)
    return {(frames, height, width): count for (frames, height, width), count in found}

  def take(self, indices: Iterable[int]) -> list[Clip]:
    """Reads some of the clips."""
    wanted, found, start = self._rows[list(indices)], {}, 0
    for batch in _batches(self._paths, _COLUMNS):
      here = wanted[(wanted >= start) & (wanted < start + len(batch))].tolist()
      for row in here:
        values = batch.slice(row - start, 1).to_pylist()[0]
        del values["split"]
        if self._place:
          values["path"] = self._place(values["path"])
        found[row] = Clip(**values)
      start += len(batch)
    return [found[row] for row in wanted.tolist()]

  def spread(self, most: int, *, sizes: int = 3) -> list[Clip]:
    """At most `most` clips, in turns from the `sizes` commonest frame sizes."""
    code = self.sizes[:, 1].astype(np.int64) << 32 | self.sizes[:, 2]
    _, first, kinds, counts = np.unique(
      code, return_index=True, return_inverse=True, return_counts=True
    )
    chosen = np.lexsort((first, -counts))[:sizes]
    queues = [np.flatnonzero(kinds == kind)[:most].tolist() for kind in chosen]
    turns = (i for turn in itertools.zip_longest(*queues) for i in turn if i is not None)
    return self.take(itertools.islice(turns, most))


def _batches(
  paths: Sequence[pathlib.Path], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
  for path in paths:
    with pyarrow.parquet.ParquetFile(path) as file:
      yield from file.iter_batches(columns=list(columns))


def _places(paths: Sequence[pathlib.Path], media: pathlib.Path) -> Callable[[str], str]:
  """Where the files of a table lie now: as they lay to one another, or side by side.

  A file's name alone says which it is only where no other of the table has that name.
  """
  marks, ends = [np.empty((0, 2), np.int64)], []
  for batch in _batches(paths, ["path"]):
    files = sorted(batch["path"].unique().to_pylist())
    ends += [*files[:1], *files[-1:]]
    pairs = [(hash(file), hash(os.path.basename(file))) for file in files]
    marks.append(np.array(pairs, np.int64).reshape(-1, 2))
  # What the first and the last in order have in common, all have.
  ends = [min(ends, default=""), max(ends, default="")]
  above = os.path.commonprefix(ends).rpartition("/")[0]  # noqa: RUF071
  files_and_names = np.unique(np.concatenate(marks), axis=0)
  names, counts = np.unique(files_and_names[:, 1], return_counts=True)
  shared = set(names[counts > 1].tolist())

  def place(file: str) -> str:
    name = os.path.basename(file)
    beside, flat = media / file.removeprefix(above).lstrip("/"), media / name
    use_flat = hash(name) not in shared and flat.exists() and not beside.exists()
    return str(flat if use_flat else beside)

  return place


def check(path: pathlib.Path) -> None:
  """Refuses a table that is missing or not one of clips; reads none of them.

  Raises:
    ValueError: the path, and what it should be.
  """
  what = "Name the clips.parquet of the data set, or the folder of its media files."
  if not path.is_file():
    raise ValueError(f"--training={path}: there is no such file. {what}")
  try:
    found = pyarrow.parquet.read_schema(path).names
  except (OSError, pa.ArrowInvalid) as error:
    raise ValueError(
      f"--training={path}: is not a Parquet file ({error}). {what}"
    ) from None
  missing = [name for name in _COLUMNS if name not in found]
  if missing:
    raise ValueError(f"--training={path}: has no column {missing[0]!r}. {what}")
