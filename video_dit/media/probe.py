"""What a media file declares, and what its first frame shows."""

import dataclasses
import os
from typing import Literal

from video_dit import config
from video_dit.media import container, declared, still, video
from video_dit.media.errors import MediaError
from video_dit.media.picture import displayed_size, rotation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe:
  """A media file in brief; what it declares can be false until it is decoded.

  Attributes:
    kind: `video` (animated images too) or `image`.
    height, width: pixels as displayed: orientation and pixel shape applied.
    frames_per_second: average rate; 0 for an image.
    duration_seconds: of the video from its first frame on, where declared; 0 for an
      image.
    frames: number of frames, where declared and plausible.
    codec: name of the codec or of the image format, in lower case.
    bit_depth: bits of a channel.
    rotation: counter-clockwise degrees that bring the coded frame upright: -90, 0, 90
      or 180. Where the file mirrors it too, left and right are exchanged afterwards.
    audio: whether there is sound.
  """

  kind: Literal["video", "image"]
  height: int
  width: int
  frames_per_second: float
  duration_seconds: float | None
  frames: int | None
  codec: str
  bit_depth: int
  rotation: int
  audio: bool


def probe(path: str | os.PathLike, limits: config.Media) -> Probe:
  """Reads the header and decodes one frame (of an image, only the header).

  An animated image is read to its end, as only its frames hold their times.

  Args:
    path: the file.
    limits: on sizes and durations.

  Returns:
    What the file declares, as displayed.

  Raises:
    MediaError: the file breaks a limit, is not media, or nothing in it decodes.
  """
  path = os.fspath(path)
  with still.open_image(path, limits) as image:
    if image is not None:
      return _probe_image(path, image, limits)
  with container.open_video(path, limits) as clip:
    first = video.first_frame(clip)
    height, width = displayed_size(clip.stream, first, clip.crop)
    degrees = rotation(first)
    if clip.picture is not None:
      height, width = clip.picture.displayed_size
      degrees = clip.picture.rotation
    count = clip.stream.frames or None
    if count and clip.duration:
      expected = clip.duration * clip.frames_per_second
      count = count if abs(count - expected) <= 2 + 0.1 * expected else None
    is_image = declared.is_image(clip.container) or clip.picture is not None
    return Probe(
      kind="image" if is_image else "video",
      height=height,
      width=width,
      frames_per_second=0.0 if is_image else clip.frames_per_second,
      duration_seconds=0.0 if is_image else clip.duration,
      frames=1 if is_image else count,
      codec=clip.stream.codec.canonical_name,
      bit_depth=max(part.bits for part in first.format.components),
      rotation=degrees,
      audio=any(stream.type == "audio" for stream in clip.container.streams),
    )


def _probe_image(path: str, image, limits: config.Media) -> Probe:
  height, width = still.displayed_size(image)
  bit_depth = 16 if image.mode.startswith("I") else 8
  seconds, count = 0.0, 1
  if still.is_animated(path, image):
    count = 0
    try:
      for start, duration, _ in still.shown(path, image):
        seconds, count = start + duration, count + 1
        container.check_length(path, seconds, limits)
    except MediaError as error:
      if error.reason not in ("truncated", "damaged") or not count:
        raise
  return Probe(
    kind="video" if count > 1 else "image",
    height=height,
    width=width,
    frames_per_second=count / seconds if count > 1 else 0.0,
    duration_seconds=seconds if count > 1 else 0.0,
    frames=count,
    codec=image.format.lower(),
    bit_depth=bit_depth,
    rotation=still.rotation(image),
    audio=False,
  )
