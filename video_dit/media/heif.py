"""The picture of a HEIF file (.heic and the like), complete and in its colours.

FFmpeg presents each coded item of such a file as a stream: the tiles that a phone's photo
is cut into, a thumbnail, the picture itself. Only the boxes say which of them are the
picture, and how its tiles are arranged (ISO/IEC 23008-12). Alpha planes, gain maps and
depth are ignored.
"""

import dataclasses
import struct

import av
import numpy as np
from PIL import Image

from video_dit.media import boxes
from video_dit.media.colours import standard_colour
from video_dit.media.errors import MediaError
from video_dit.media.picture import Painter

_Turns = tuple[tuple[bytes, bytes], ...]


@dataclasses.dataclass(frozen=True)
class Picture:
  """The primary picture of a file.

  Attributes:
    items: numbers of its coded items, row by row; one where it is not tiled.
    columns: of tiles.
    size: height and width in pixels, before it is turned.
    turns: names and contents of the boxes that crop, rotate and mirror it, in order.
    profile: its ICC profile.
  """

  items: tuple[int, ...]
  columns: int
  size: tuple[int, int]
  turns: _Turns
  profile: bytes | None

  @property
  def displayed_size(self) -> tuple[int, int]:
    """Height and width in pixels as displayed."""
    blank_HWC = np.broadcast_to(np.uint8(0), (*self.size, 3))
    height, width, _ = _turned(blank_HWC, self.turns).shape
    return height, width

  @property
  def rotation(self) -> int:
    """Counter-clockwise degrees that turn it upright; it is mirrored afterwards."""
    corners_HW = np.arange(4).reshape(2, 2)
    turned_HW = _turned(corners_HW, tuple(t for t in self.turns if t[0] != b"clap"))
    mirrored_HW = turned_HW[:, ::-1]
    degrees = (0, 90, 180, -90)
    return next(
      degrees[quarters]
      for quarters in range(4)
      for seen_HW in (turned_HW, mirrored_HW)
      if np.array_equal(np.rot90(corners_HW, quarters), seen_HW)
    )


def find(path: str) -> Picture | None:
  """Reads which items are the picture.

  Args:
    path: a file that FFmpeg opens as one of the MP4 family.

  Returns:
    The picture; None where the file is a video.

  Raises:
    MediaError: `unsupported` for a picture that is neither one coded item nor tiles,
      `unreadable` where the boxes are invalid.
  """
  try:
    with open(path, "rb") as file:
      found = boxes.items(file)
      if found is None:
        return None
      kind = found.kinds[found.primary]
      grid = found.content(file, found.primary) if kind == b"grid" else b""
    return _picture(path, found, kind, grid)
  except MediaError:
    raise
  except (struct.error, LookupError, ValueError, ZeroDivisionError) as error:
    message = f"the boxes of the picture are invalid: {error!r}"
    raise MediaError(path, "unreadable", message) from error


def _picture(path: str, found: boxes.Items, kind: bytes, grid: bytes) -> Picture:
  if kind in (b"iovl", b"iden", b"tmap"):
    message = (
      f"its picture is derived from others as {kind.decode()!r}; only tiles ('grid') are"
      " supported; convert it to JPEG or PNG."
    )
    raise MediaError(path, "unsupported", message)
  own = found.properties.get(found.primary, [])
  items: tuple[int, ...] = (found.primary,)
  columns = 1
  width, height = struct.unpack_from(">II", dict(own)[b"ispe"], 4)
  if kind == b"grid":
    items = found.sources[found.primary]
    rows, columns = grid[2] + 1, grid[3] + 1
    width, height = struct.unpack_from(">II" if grid[1] & 1 else ">HH", grid, 4)
    if len(items) != rows * columns:
      raise ValueError(f"{len(items)} tiles for {rows} rows and {columns} columns")
  turns = tuple(part for part in own if part[0] in (b"clap", b"irot", b"imir"))
  profiles = [
    body[4:]
    for item in (found.primary, items[0])
    for name, body in found.properties.get(item, [])
    if name == b"colr" and body[:4] in (b"prof", b"rICC")
  ]
  profile = profiles[0] if profiles else None
  picture = Picture(items, columns, (height, width), turns, profile)
  if min(picture.displayed_size) < 1:
    raise ValueError(f"nothing is left of {width}x{height} pixels")
  return picture


def streams(
  container: av.container.InputContainer, picture: Picture
) -> list[av.VideoStream] | None:
  """The streams of a picture's items, each once; None where one is missing."""
  by_item = {stream.id: stream for stream in container.streams.video}
  if not by_item.keys() >= set(picture.items):
    return None
  found = [by_item[item] for item in dict.fromkeys(picture.items)]
  known = all(stream.codec_context is not None and stream.width for stream in found)
  return found if known else None


def paint(
  path: str, container: av.container.InputContainer, picture: Picture
) -> np.ndarray:
  """Decodes a picture.

  Args:
    path: the file, for messages.
    container: of the file, just opened.
    picture: of the file, its streams checked.

  Returns:
    uint8 RGB `(H, W, 3)` as displayed.

  Raises:
    MediaError: `damaged` where it does not decode, or one of its tiles does not.
  """
  tiles: dict[int, np.ndarray] = {}
  try:
    for packet in container.demux(streams(container, picture) or []):
      stream = packet.stream
      assert isinstance(stream, av.VideoStream)
      for frame in stream.decode(packet):
        if frame.is_corrupt:
          continue
        size = frame.height, frame.width
        _check_tile(path, size, picture)
        managed = picture.profile is not None
        painter = Painter(stream, size, upright=False, managed=managed)
        tiles[stream.id] = painter(frame)
  except MediaError:
    raise
  except (av.error.FFmpegError, ValueError) as error:
    raise MediaError(path, "damaged", f"the picture does not decode: {error}") from error
  lost = len(set(picture.items) - set(tiles))
  if lost:
    message = f"{lost} of the {len(picture.items)} tiles of the picture do not decode"
    raise MediaError(path, "damaged", message)
  pixels_HWC = _turned(_laid_out(path, tiles, picture), picture.turns)
  image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
  return np.array(standard_colour(image, picture.profile))


def _check_tile(path: str, size: tuple[int, int], picture: Picture) -> None:
  """Refuses tiles of which a row or a column would lie outside the picture.

  All tiles are held at once, so a small picture of huge ones would fill memory.
  """
  rows = len(picture.items) // picture.columns
  (tall, wide), (height, width) = size, picture.size
  if (rows - 1) * tall >= height or (picture.columns - 1) * wide >= width:
    message = f"tiles of {wide}x{tall} pixels do not make up {width}x{height}"
    raise MediaError(path, "damaged", message)


def _laid_out(path: str, tiles: dict[int, np.ndarray], picture: Picture) -> np.ndarray:
  """Tiles side by side; what reaches beyond the picture's size is cut off."""
  height, width = picture.size
  tall, wide = tiles[picture.items[0]].shape[:2]
  rows = len(picture.items) // picture.columns
  alike = all(tile_HWC.shape == (tall, wide, 3) for tile_HWC in tiles.values())
  if not alike or rows * tall < height or picture.columns * wide < width:
    message = f"tiles of {wide}x{tall} pixels do not make up {width}x{height}"
    raise MediaError(path, "damaged", message)
  canvas_HWC = np.empty((height, width, 3), np.uint8)
  for place, item in enumerate(picture.items):
    row, column = divmod(place, picture.columns)
    part_HWC = canvas_HWC[row * tall :, column * wide :][:tall, :wide]
    part_HWC[:] = tiles[item][: part_HWC.shape[0], : part_HWC.shape[1]]
  return canvas_HWC


def _turned(pixels_HWC: np.ndarray, turns: _Turns) -> np.ndarray:
  """Cropped (`clap`), turned (`irot`) and mirrored (`imir`), in the order given."""
  for name, body in turns:
    if name == b"irot":
      pixels_HWC = np.rot90(pixels_HWC, body[0] & 3)
    elif name == b"imir":  # 0 exchanges top and bottom, 1 left and right.
      pixels_HWC = pixels_HWC[:, ::-1] if body[0] & 1 else pixels_HWC[::-1]
    else:
      top, left, tall, wide = boxes.clean_aperture(body, *pixels_HWC.shape[:2])
      pixels_HWC = pixels_HWC[top : top + tall, left : left + wide]
  return pixels_HWC
