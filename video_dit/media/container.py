"""A video file opened by PyAV: its stream, and what it declares, within the limits."""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import os

import av

from video_dit import config
from video_dit.media import boxes, cropping, declared, heif, known, motion_jpeg
from video_dit.media.errors import MediaError
from video_dit.media.picture import displayed_size
from video_dit.media.still import check_size
from video_dit.media.times import Times

# Text that FFmpeg would draw, and lists that name other files.
_REFUSED = {"tty", "hls", "concat", "dash", "imf", "lavfi", "sdp", "rtsp"}
_STARTS = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"FLV", b"\x00\x00\x01\xba", b"0&\xb2u")
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
HOPELESS = 300  # failures to decode before the first frame


@dataclasses.dataclass
class Video:
  """An open video file.

  Attributes:
    path: the file.
    container: PyAV's.
    stream: the video stream (`declared.first_video`).
    decoder: of the stream.
    media: limits.
    frames_per_second: average rate.
    duration: declared seconds of the video from its first frame on; None where the
      file does not say.
    exact: `duration` is that of the video stream, not of the whole file.
    picture: of a HEIF file, whose stream is then the first tile.
  """

  path: str
  container: av.container.InputContainer
  stream: av.VideoStream
  decoder: av.VideoCodecContext
  media: config.Media
  frames_per_second: float
  duration: float | None
  exact: bool
  picture: heif.Picture | None = None

  @functools.cached_property
  def crop(self) -> cropping.Crop:
    """What the container cuts off each frame."""
    return cropping.find(self.path, self.container, self.stream)

  @functools.cached_property
  def is_avi(self) -> bool:
    """Whether the container has no display times."""
    return self.container.format.name == "avi"

  @functools.cached_property
  def is_broadcast(self) -> bool:
    """Whether the clock may jump, so that time stamps do not give positions."""
    return declared.is_broadcast(self.container)

  @functools.cached_property
  def tick(self) -> float:
    """Seconds of one unit of the stream's time stamps."""
    return float(self.stream.time_base or 1)

  @functools.cached_property
  def zero(self) -> float | None:
    """Time stamp, in seconds, that counts as the start; None is the first frame's.

    A broadcast may begin with packets that refer to what came before: there it is that of
    the first frame that decodes.
    """
    if self.is_avi:
      return 0.0
    if self.is_broadcast:
      find = functools.partial(_first_stamp, self)
      if (stamp := known.once(self.path, "first stamp", find)) is not None:
        return stamp
    return None if self.stream.start_time is None else self.stream.start_time * self.tick

  @functools.cached_property
  def seeks(self) -> bool:
    """Whether times are known in the middle; else frames are counted from the start."""
    bare = declared.is_bare(self.container)
    return not self.is_avi and not bare and self.zero is not None

  def times(self) -> Times:
    """Times of frames, for decoding from a seek point or from the start."""
    return Times(
      tick=self.tick,
      zero=self.zero,
      step=1 / self.frames_per_second,
      is_avi=self.is_avi,
      is_broadcast=self.is_broadcast,
    )


@contextlib.contextmanager
def open_video(path: str | os.PathLike, media: config.Media) -> Iterator[Video]:
  """Opens a file's first video stream and checks what the file declares.

  Args:
    path: the file; read only from disk, whatever its name looks like.
    media: limits.

  Yields:
    The open video.

  Raises:
    MediaError: `empty`, `not_media`, `unreadable`, `no_video`, `too_large`,
      `too_small` or `too_long`.
  """
  path = os.fspath(path)
  try:
    head = _head(path)
    container = _open(path)
  except (av.error.FFmpegError, OSError, ValueError) as error:
    if isinstance(error, OSError) and not os.path.isfile(path):
      raise MediaError(path, "unreadable", "no such file.") from error
    if not os.path.getsize(path):
      raise MediaError(path, "empty", "the file has no bytes.") from None
    if head[4:8] in _BOXES or head.startswith(_STARTS):
      message = f"a media container that cannot be opened, perhaps truncated: {error}"
      raise MediaError(path, "unreadable", message) from error
    raise MediaError(path, "not_media", "not an image or a video container.") from None
  with container:
    if container.format.name in _REFUSED:
      raise MediaError(path, "not_media", f"{container.format.long_name} is not video.")
    picture = heif.find(path) if "mp4" in container.format.name else None
    streams = _streams(path, container, picture)
    stream = streams[0]
    height, width = displayed_size(stream)
    if picture is not None:
      check_size(path, *picture.size, media)
      height, width = picture.displayed_size
    check_size(path, height, width, media)
    decoder = declared.decoder(stream)
    for one in streams:
      if picture is None:
        check_size(path, one.height, one.width, media)
      _set(one.codec_context if len(streams) > 1 else decoder, media)
    duration, exact = declared.duration(container, stream)
    rate = declared.rate(container, stream, duration)
    video = Video(path, container, stream, decoder, media, rate, duration, exact, picture)
    if video.is_broadcast and duration and video.zero is not None:
      video.duration = duration - (video.zero - (stream.start_time or 0) * video.tick)
    if video.is_broadcast and (video.duration or 0.0) > media.max_seconds:
      video.duration = _end(video)  # With clock jumps the declared duration is wrong.
    check_length(path, video.duration or 0.0, media)
    yield video


def coded(video: Video, times: Times | None = None) -> Iterator[tuple[bool, float]]:
  """Goes through the coded frames of a video from its start, decoding none.

  Args:
    video: an open video.
    times: repair its clock, and may be queried meanwhile; None creates them.

  Yields:
    For each, whether it can be decoded by itself, and when it is shown.
  """
  with _open(video.path) as container:
    times = times or video.times()
    for packet in container.demux(container.streams[video.stream.index]):
      if packet.size:
        times.add(packet)
        yield packet.is_keyframe, times.of_packet(packet) or 0.0


def _first_stamp(video: Video) -> float | None:
  """Time stamp, in seconds and repaired, of the first frame that decodes, if any."""
  step = 1 / video.frames_per_second
  times = Times(tick=video.tick, zero=0.0, step=step, is_broadcast=True)
  failures = before = 0  # before: frames without a time
  with _open(video.path) as container:
    stream = container.streams.video[video.container.streams.video.index(video.stream)]
    _set(stream.codec_context, video.media)
    with contextlib.suppress(av.error.FFmpegError):  # Decoding will meet it again.
      for packet in container.demux(stream):
        times.add(packet)
        try:
          for frame in stream.codec_context.decode(packet):
            if frame.pts is not None:
              return frame.pts * video.tick - before * step
            before += 1
        except (av.error.FFmpegError, ValueError):
          failures += 1
        if failures == HOPELESS:
          break
  return None


def _end(video: Video) -> float:
  """Seconds that a video lasts by its repaired clock, or just over the limit."""
  end = 0.0
  with contextlib.suppress(av.error.FFmpegError):  # Decoding will meet it again.
    for _, seconds in coded(video):
      end = max(end, seconds + 1 / video.frames_per_second)
      if end > video.media.max_seconds:
        break
  return end


def _open(path: str) -> av.container.InputContainer:
  options = {"protocol_whitelist": "file", "pattern_type": "none", "threads": "1"}
  url = "file:" + os.path.abspath(path)
  form = "mjpeg" if motion_jpeg.is_stream(path) else None
  return av.open(url, format=form, options=options, metadata_errors="replace")


def _set(decoder: av.VideoCodecContext, media: config.Media) -> None:
  """Sets one thread, and no more pixels than the limit."""
  decoder.thread_type = "NONE"
  decoder.thread_count = 1
  # Guards against a stream that grows; codecs align sizes to blocks, hence the margin.
  most = int(1.1 * media.max_source_pixels) + (1 << 16)
  decoder.options = {"max_pixels": str(min(most, 2**31 - 1))}
  if decoder.codec.name == "exr":  # Its values are linear light; convert them to sRGB.
    decoder.options = {**decoder.options, "apply_trc": "iec61966_2_1"}


def _streams(
  path: str, container: av.container.InputContainer, picture: heif.Picture | None
) -> list[av.VideoStream]:
  """The stream to decode, or those of a picture's tiles."""
  if picture is None:
    stream = declared.first_video(container)
    if stream is None:
      raise _nothing(path, container)
    return [stream]
  streams = heif.streams(container, picture)
  if streams is None:
    message = "the codec of its picture is not supported; convert it to JPEG or PNG."
    raise MediaError(path, "unreadable", message)
  return streams


def _nothing(path: str, container: av.container.InputContainer) -> MediaError:
  """Why a file that opens has no stream to decode."""
  if "mp4" in container.format.name:
    with open(path, "rb") as file:
      if boxes.is_cut(file):
        return MediaError(path, "unreadable", "it is truncated within its header.")
  attached = av.stream.Disposition.attached_pic
  found = [s for s in container.streams.video if not s.disposition & attached]
  if any(stream.codec_context is None for stream in found):
    message = "its codec is not supported; convert it (a picture to JPEG or PNG)."
    return MediaError(path, "unreadable", message)
  if found and (declared.is_image(container) or declared.is_bare(container)):
    message = "neither an image nor a video, whatever its name says."
    return MediaError(path, "not_media", message)
  if found:
    message = "a video stream without a size, perhaps truncated."
    return MediaError(path, "unreadable", message)
  return MediaError(path, "no_video", "there is no video stream in the file.")


def check_length(path: str, seconds: float, media: config.Media) -> None:
  """Refuses a time beyond `media.max_seconds`, in seconds, as `too_long`."""
  if seconds > media.max_seconds:
    message = f"lasts {seconds:.1f} s, over media.max_seconds={media.max_seconds}."
    raise MediaError(path, "too_long", message)


def _head(path: str) -> bytes:
  with open(path, "rb") as file:
    return file.read(16)
