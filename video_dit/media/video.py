"""Video files, read by PyAV: opening, times of frames, pixels as displayed.

Frames are decoded by one thread, so that damage is seen and not skipped over. PyAV's
logging is left as it is: setting its level can hang decoding.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import os
from typing import NamedTuple

import av
import numpy as np

from video_dit import config
from video_dit.media import declared, heif
from video_dit.media.errors import MediaError
from video_dit.media.picture import Painter, displayed_size
from video_dit.media.still import check_size
from video_dit.media.times import Times

# Text that FFmpeg would draw, and lists that name other files.
_REFUSED = {"tty", "hls", "concat", "dash", "imf", "lavfi", "sdp", "rtsp"}
_STARTS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"\x00\x00\x01\xba", b"0&\xb2u")
_HOPELESS = 300  # Failures before the first frame.
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")


class Shown(NamedTuple):
  """One decoded frame and when it is shown.

  Attributes:
    seconds: since the start of the stream.
    duration: seconds that it is shown where nothing follows.
    pixels: makes the uint8 RGB frame `(H, W, 3)`; costly, so call it once.
  """

  seconds: float
  duration: float
  pixels: Callable[[], np.ndarray]


@dataclasses.dataclass
class Video:
  """An open video file.

  Attributes:
    path: the file.
    container: PyAV's.
    stream: the first video stream that is no attached picture.
    media: limits.
    frames_per_second: average rate.
    duration: declared seconds of the video from its first frame on; None where the
      file does not say.
    exact: `duration` is of the video stream, not of the whole file.
    picture: of a HEIF file; the stream is its first tile then.
  """

  path: str
  container: av.container.InputContainer
  stream: av.VideoStream
  media: config.Media
  frames_per_second: float
  duration: float | None
  exact: bool
  picture: heif.Picture | None = None

  @functools.cached_property
  def is_avi(self) -> bool:
    """Whether the container has no display times."""
    return self.container.format.name == "avi"

  @functools.cached_property
  def tick(self) -> float:
    """Seconds of one unit of the stream's time stamps."""
    return float(self.stream.time_base or 1)

  @functools.cached_property
  def zero(self) -> float | None:
    """Time stamp, in seconds, that counts as the start; None is the first frame's."""
    if self.is_avi:
      return 0.0
    return None if self.stream.start_time is None else self.stream.start_time * self.tick

  @functools.cached_property
  def seeks(self) -> bool:
    """Whether times are known in the middle; else one counts from the start."""
    bare = declared.is_bare(self.container)
    return not self.is_avi and not bare and self.zero is not None

  def times(self) -> Times:
    """Times of frames, for decoding from a seek or from the start on."""
    return Times(
      tick=self.tick,
      zero=self.zero,
      step=1 / self.frames_per_second,
      is_avi=self.is_avi,
      is_broadcast=declared.is_broadcast(self.container),
    )


@contextlib.contextmanager
def open_video(path: str | os.PathLike, media: config.Media) -> Iterator[Video]:
  """Opens a file's first video stream and checks what the file declares.

  Args:
    path: the file; read from disk alone, whatever its name looks like.
    media: limits.

  Yields:
    The open video.

  Raises:
    MediaError: `empty`, `not_media`, `unreadable`, `no_video`, `too_large`,
      `too_small` or `too_long`.
  """
  path = os.fspath(path)
  url = "file:" + os.path.abspath(path)
  options = {"protocol_whitelist": "file", "pattern_type": "none", "threads": "1"}
  try:
    head = _head(path)
    container = av.open(url, options=options, metadata_errors="replace")
  except (av.error.FFmpegError, OSError, ValueError) as error:
    if isinstance(error, OSError) and not os.path.isfile(path):
      raise MediaError(path, "unreadable", "no such file.") from error
    if not os.path.getsize(path):
      raise MediaError(path, "empty", "the file has no bytes.") from None
    if head[4:8] in _BOXES or head.startswith(_STARTS):
      message = f"a media container that does not open, cut off perhaps: {error}"
      raise MediaError(path, "unreadable", message) from error
    raise MediaError(path, "not_media", "no image and no video container.") from None
  with container:
    if container.format.name in _REFUSED:
      raise MediaError(path, "not_media", f"{container.format.long_name} is no video.")
    picture = heif.find(path) if "mp4" in container.format.name else None
    streams = _streams(path, container, picture)
    stream = streams[0]
    height, width = displayed_size(stream)
    if picture is not None:
      check_size(path, *picture.size, media)
      height, width = picture.displayed_size
    check_size(path, height, width, media)
    for one in streams:
      check_size(path, one.height, one.width, media)
      one.thread_type = "NONE"
      one.codec_context.thread_count = 1
      # A stream that grows while it plays; codecs align sizes to blocks, hence the room.
      most = int(1.1 * media.max_source_pixels) + (1 << 16)
      one.codec_context.options = {"max_pixels": str(min(most, 2**31 - 1))}
    duration, exact = declared.duration(container, stream)
    check_length(path, duration or 0.0, media)
    rate = declared.rate(container, stream, duration)
    yield Video(path, container, stream, media, rate, duration, exact, picture)


def _streams(
  path: str, container: av.container.InputContainer, picture: heif.Picture | None
) -> list[av.VideoStream]:
  """The stream to decode, or those of a picture's tiles."""
  if picture is None:
    stream = declared.first_video(container)
    if stream is None:
      raise MediaError(path, "no_video", "there is no video stream in the file.")
    return [stream]
  streams = heif.streams(container, picture)
  if streams is None:
    message = "the codec of its picture is not known here; convert it to JPEG or PNG."
    raise MediaError(path, "unreadable", message)
  return streams


def check_length(path: str, seconds: float, media: config.Media) -> None:
  """Refuses a time beyond `media.max_seconds`, in seconds, as `too_long`."""
  if seconds > media.max_seconds:
    message = f"lasts {seconds:.1f} s, over media.max_seconds={media.max_seconds}."
    raise MediaError(path, "too_long", message)


def shown(
  video: Video, size: tuple[int, int] | None = None, seek_seconds: float = 0.0
) -> Iterator[Shown]:
  """Decodes in the order of display; pixels are converted only where asked for.

  Times are those of the file, repaired where they run backwards. An AVI has times of
  decoding only; the n-th frame shown gets the n-th of them.

  Args:
    video: an open video.
    size: `(height, width)` of the frames made; None is the displayed size.
    seek_seconds: frames earlier than the key frame before this time may be left out.

  Yields:
    Frames with rising times.

  Raises:
    MediaError: `damaged` or `truncated` after the last good frame (not with
      `media.keep_truncated`), `unreadable` where no frame decodes, `too_large`,
      `too_long`.
  """
  if seek_seconds > 0:
    _seek(video, seek_seconds)
  times, tally = video.times(), _Tally()
  painter, checked = Painter(video.stream, size), None
  for frame in _decoded(video, tally, times):
    if checked != (frame.height, frame.width):  # A stream may change its size.
      checked = frame.height, frame.width
      check_size(video.path, *checked, video.media)
      check_size(video.path, *displayed_size(video.stream, frame), video.media)
    seconds = times.of(frame)
    check_length(video.path, seconds, video.media)
    duration = (frame.duration or 0) * video.tick or 1 / video.frames_per_second
    tally.frames, tally.end = tally.frames + 1, seconds + duration
    tally.interlaced |= frame.interlaced_frame
    yield Shown(seconds, duration, functools.partial(_paint, video, painter, frame))
  if not tally.frames:
    raise MediaError(video.path, "unreadable", "no frame of the video decodes.")
  problem = tally.problem or _missing(video, tally)
  if problem is not None and not video.media.keep_truncated:
    reason, message = problem
    remedy = "; media.keep_truncated=True keeps what comes before."
    raise MediaError(video.path, reason, message + remedy)


def still(video: Video) -> np.ndarray | None:
  """The uint8 RGB picture `(H, W, 3)` of a HEIF file just opened; None of a video.

  Raises:
    MediaError: `damaged`.
  """
  if video.picture is None:
    return None
  return heif.paint(video.path, video.container, video.picture)


def _seek(video: Video, seconds: float) -> None:
  stamp = int((seconds + (video.zero or 0.0)) / video.tick)
  try:
    video.container.seek(stamp, stream=video.stream)
  except av.error.FFmpegError as error:
    message = f"{seconds:.2f} s can't be sought: {error}"
    raise MediaError(video.path, "unreadable", message) from error


def _paint(video: Video, painter: Painter, frame: av.VideoFrame) -> np.ndarray:
  """The pixels of a frame; what can't be converted is `unsupported`."""
  try:
    return painter(frame)
  except (av.error.FFmpegError, ValueError, MemoryError) as error:
    message = f"{frame.format.name} pixels can't be made RGB: {error}"
    raise MediaError(video.path, "unsupported", message) from error


def first_frame(video: Video) -> av.VideoFrame:
  """Decodes the first frame, its size checked.

  Args:
    video: a video just opened; it can't be decoded from its start afterwards.

  Returns:
    PyAV's frame.

  Raises:
    MediaError: `unreadable` where none decodes, `too_large`, `too_small`.
  """
  for frame in _decoded(video, _Tally(), video.times()):
    check_size(video.path, *displayed_size(video.stream, frame), video.media)
    return frame
  raise MediaError(video.path, "unreadable", "no frame of the video decodes.")


@dataclasses.dataclass
class _Tally:
  """What was met while decoding; times in seconds from the start of the stream.

  Attributes:
    frames: that came out.
    end: of the last of them.
    packets: of the video that went in, those outside of an edit list aside.
    packet_end: end of the last of them.
    file_end: end of the last packet of any stream.
    interlaced: a frame may be made of two packets.
    problem: what ended decoding early: a reason and a message.
  """

  frames: int = 0
  end: float = 0.0
  packets: int = 0
  packet_end: float = 0.0
  file_end: float = 0.0
  interlaced: bool = False
  problem: tuple[str, str] | None = None

  def add(self, packet: av.Packet, video: Video) -> None:
    """Counts a packet."""
    stamp = packet.dts if packet.pts is None else packet.pts
    if stamp is None:
      return
    of_video = packet.stream.index == video.stream.index
    tick = video.tick if of_video else float(packet.time_base or 0)
    end = (stamp + (packet.duration or 0)) * tick - (video.zero or 0.0)
    self.file_end = max(self.file_end, end)
    if of_video and packet.size and not packet.is_discard:
      self.packets += 1
      self.packet_end = max(self.packet_end, end)


def _decoded(video: Video, tally: _Tally, times: Times) -> Iterator[av.VideoFrame]:
  """Frames up to the first damage, which is put into the tally."""
  packets = video.container.demux()
  failures = 0
  while failures < _HOPELESS:
    try:
      packet = next(packets, None)
      if packet is None:
        return
      of_video = packet.stream.index == video.stream.index
      if of_video:
        times.add(packet)
      tally.add(packet, video)
      if not of_video:
        continue
      if packet.size == 0 and packet.dts is not None:
        continue  # An empty chunk repeats a frame; to PyAV it would be the end.
      frames = video.stream.decode(packet)
    except (av.error.FFmpegError, ValueError) as error:
      if not tally.frames:
        failures += 1  # What was cut out of a stream begins with what can't be decoded.
        continue
      tally.problem = "damaged", f"the decoder gave up at {tally.end:.2f} s: {error}"
      if _is_over(packets, video):
        tally.problem = "truncated", f"broken off at {tally.end:.2f} s: {error}"
      return
    for frame in frames:
      if frame.is_corrupt:
        tally.problem = "damaged", f"the picture at {tally.end:.2f} s is broken"
        return
      yield frame


def _is_over(packets: Iterator[av.Packet], video: Video) -> bool:
  """Whether no packet of the video is left."""
  try:
    return not any(p.size and p.stream.index == video.stream.index for p in packets)
  except av.error.FFmpegError:
    return True


def _missing(video: Video, tally: _Tally) -> tuple[str, str] | None:
  """Finds what a decoder leaves out without a word."""
  slack = 0.1 + 2 / video.frames_per_second
  reached = tally.end if video.exact else max(tally.end, tally.file_end)
  if video.duration and reached < video.duration - slack:
    return "truncated", f"ends at {reached:.2f} s of {video.duration:.2f} s declared"
  lost_end = tally.end < tally.packet_end - 0.5 - 2 * slack
  # Some packets are for reference alone; in interlaced video two make a frame.
  lost_frames = tally.frames < 0.75 * tally.packets and not tally.interlaced
  if lost_end or lost_frames:
    return "damaged", f"{tally.packets} packets give only {tally.frames} frames"
  return None


def _head(path: str) -> bytes:
  with open(path, "rb") as file:
    return file.read(16)
