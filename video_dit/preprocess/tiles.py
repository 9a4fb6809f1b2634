"""Frames that are too large for the device's memory are encoded in tiles.

Tiles of one size overlap, and their latents are blended linearly from one to the next.
What a tile cannot see changes its latents, most at its border; how much is measured on
the first clips: around a seam they are encoded again in one tile, which has no seam
there, and compared.
"""

import dataclasses
import itertools
import math
import threading

import numpy as np

from video_dit.models.autoencoder.frozen import Frozen

_OVERLAP = 16  # latent rows or columns that neighbours share, a quarter of a tile at most
_MEASURED = 4  # clips


@dataclasses.dataclass(frozen=True)
class Grid:
  """Tiles of a frame, in latent rows and columns.

  Attributes:
    size: of each tile.
    starts: of the tiles along rows, and along columns.
  """

  size: tuple[int, int]
  starts: tuple[tuple[int, ...], tuple[int, ...]]


def grid(height: int, width: int, most: int) -> Grid:
  """The fewest tiles that cover a frame.

  Args:
    height, width: of the frame, in latents.
    most: latents of a tile.
  """
  ways: list[tuple[int, float, int, int]] = []
  for rows in range(1, height + 1):
    if ways and rows > min(ways)[0]:
      break
    for columns in range(1, width + 1):
      size = _side(height, rows), _side(width, columns)
      if math.prod(size) <= most:
        ways.append((rows * columns, abs(math.log(size[0] / size[1])), rows, columns))
        break
  if not ways:
    raise ValueError(
      f"config.media.tile_pixels allows {most} latents in a tile, too few for a frame of"
      f" {height}x{width} latents. Raise it."
    )
  _, _, rows, columns = min(ways)
  size = _side(height, rows), _side(width, columns)
  return Grid(size, (_starts(height, size[0], rows), _starts(width, size[1], columns)))


def _side(extent: int, count: int) -> int:
  """The side of tiles of which so many, overlapping, cover an extent."""
  if count == 1:
    return extent
  overlap = min(_OVERLAP, math.ceil(extent / count / 3))
  return math.ceil((extent + (count - 1) * overlap) / count)


def _starts(extent: int, side: int, count: int) -> tuple[int, ...]:
  if count == 1:
    return (0,)
  return tuple(round(i * (extent - side) / (count - 1)) for i in range(count))


class Tiler:
  """Encodes clips whole if they fit, else in tiles; counts and measures those.

  Several threads may use it at once, each with another device.

  Attributes:
    clips: encoded in tiles.
    square, most, values: of the differences at seams, in deviations of a latent's
      channel: sum of squares, greatest, and how many there were.
  """

  def __init__(self, autoencoder: Frozen, tile_pixels: int):
    """Takes the encoder, and the pixels per frame that fit the device's memory."""
    self._parts, self._pixels = autoencoder.parts(), tile_pixels
    self._space = autoencoder.space
    self._most = tile_pixels // autoencoder.space**2
    self._lock = threading.Lock()
    self.clips, self.tiles = 0, 0
    self.square, self.most, self.values = 0.0, 0.0, 0
    self._measured = 0

  def settings(self, largest: int) -> str:
    """A suffix that distinguishes data sets with tiles from those without.

    Args:
      largest: most pixels of a clip's frame.
    """
    return "" if largest <= self._pixels else f", tiles of {self._pixels}"

  def summary(self) -> str:
    """A summary of the tiles; empty without any."""
    if not self.clips:
      return ""
    text = f"{self.clips:,} clips in up to {self.tiles} tiles"
    if self.values:
      rms = math.sqrt(self.square / self.values)
      text += f"; seams are off by {rms:.4f} rms, {self.most:.3f} at most"
      text += " (deviations of a channel)"
    return text

  def encode(
    self, clips_BFHWC: np.ndarray, sizes_B2: np.ndarray | None = None, device: int = 0
  ) -> np.ndarray:
    """As `Frozen.encode_batch`; in tiles where a frame has more than the pixels.

    Args:
      clips_BFHWC, sizes_B2: as there.
      device: number of the one that encodes.
    """
    _, _, height, width, _ = clips_BFHWC.shape
    part = self._parts[device]
    if height * width <= self._pixels:
      return np.asarray(part.encode_batch(clips_BFHWC, sizes_B2))
    tiles = grid(height // self._space, width // self._space, self._most)
    latents_BFHWC = self._blend(part, clips_BFHWC, sizes_B2, tiles)
    with self._lock:
      self.clips += len(clips_BFHWC)
      self.tiles = max(self.tiles, math.prod(len(s) for s in tiles.starts))
      measured = self._measured
      self._measured += len(clips_BFHWC)
    if measured < _MEASURED:
      self._measure(part, clips_BFHWC, sizes_B2, latents_BFHWC, tiles)
    return latents_BFHWC

  def _blend(
    self,
    part: Frozen,
    clips_BFHWC: np.ndarray,
    sizes_B2: np.ndarray | None,
    tiles: Grid,
  ) -> np.ndarray:
    total, weights_HW = None, None
    extent = tuple(n // self._space for n in clips_BFHWC.shape[2:4])
    for start in itertools.product(*tiles.starts):
      tile = self._one(part, clips_BFHWC, sizes_B2, start, tiles.size)
      weight_HW = np.multiply.outer(
        *(
          _ramp(s, starts, side)
          for s, starts, side in zip(start, tiles.starts, tiles.size, strict=True)
        )
      )
      if total is None:
        total = np.zeros((*tile.shape[:2], *extent, tile.shape[-1]), np.float32)
        weights_HW = np.zeros(extent, np.float32)
      assert weights_HW is not None
      here = tuple(slice(s, s + n) for s, n in zip(start, tiles.size, strict=True))
      total[:, :, *here] += tile * weight_HW[None, None, :, :, None]
      weights_HW[here] += weight_HW
    assert total is not None and weights_HW is not None
    return total / weights_HW[None, None, :, :, None]

  def _one(
    self,
    part: Frozen,
    clips_BFHWC: np.ndarray,
    sizes_B2: np.ndarray | None,
    start: tuple[int, ...],
    size: tuple[int, int],
  ) -> np.ndarray:
    """Latents of one tile of all clips."""
    space = self._space
    (top, left), (rows, columns) = start, size
    tile_BFHWC = clips_BFHWC[
      :, :, top * space : (top + rows) * space, left * space : (left + columns) * space
    ]
    inside_B2 = None
    if sizes_B2 is not None:
      inside_B2 = sizes_B2 - np.array([top, left]) * space
      inside_B2 = np.clip(inside_B2, space, np.array(size) * space)
    return np.asarray(part.encode_batch(tile_BFHWC, inside_B2))

  def _measure(
    self,
    part: Frozen,
    clips_BFHWC: np.ndarray,
    sizes_B2: np.ndarray | None,
    latents_BFHWC: np.ndarray,
    tiles: Grid,
  ) -> None:
    """Compares latents around the first seam with those of a tile laid over it."""
    start = []
    for starts, side, extent in zip(
      tiles.starts, tiles.size, latents_BFHWC.shape[2:4], strict=True
    ):
      seam = (starts[1] + side) // 2 if len(starts) > 1 else side // 2
      start.append(min(max(0, seam - side // 2), extent - side))
    over = self._one(part, clips_BFHWC, sizes_B2, tuple(start), tiles.size)
    # The tile has borders too: only its middle half is compared.
    middle = tuple(slice(n // 4, n - n // 4) for n in tiles.size)
    here = tuple(
      slice(s + m.start, s + m.stop) for s, m in zip(start, middle, strict=True)
    )
    apart = np.abs(over[:, :, *middle] - latents_BFHWC[:, :, *here])
    if sizes_B2 is not None:
      last = np.array([m.stop for m in here]) * self._space
      apart = apart[(sizes_B2 >= last[None]).all(axis=1)]
    if apart.size:
      with self._lock:
        self.square += float(np.square(apart, dtype=np.float64).sum())
        self.most = max(self.most, float(apart.max()))
        self.values += apart.size


def _ramp(start: int, starts: tuple[int, ...], side: int) -> np.ndarray:
  """Weights along one side of a tile: falling to its neighbours, 1 elsewhere."""
  weights = np.ones(side, np.float32)
  i = starts.index(start)
  if i:
    overlap = starts[i - 1] + side - start
    weights[:overlap] = (np.arange(overlap) + 0.5) / overlap
  if i + 1 < len(starts):
    overlap = start + side - starts[i + 1]
    weights[side - overlap :] = ((np.arange(overlap) + 0.5) / overlap)[::-1]
  return weights
