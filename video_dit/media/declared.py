"""What a container declares: which stream is the video, how long it is, how fast."""

import av

_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS
_FASTEST = 480  # frames per second; more is a clock's tick, not a rate
# Broadcast clocks jump where files were joined and where reception was interrupted.
_BROADCAST = ("mpegts", "mpeg")


def is_bare(container: av.container.InputContainer) -> bool:
  """Whether a file is a coded stream without a container, hence without times."""
  return bool(container.format.flags & _NO_TIMESTAMPS)


def is_broadcast(container: av.container.InputContainer) -> bool:
  """Whether the clock of a container may jump."""
  return container.format.name in _BROADCAST


def first_video(container: av.container.InputContainer) -> av.VideoStream | None:
  """The video stream of a file that has several: the first of those marked as default.

  Where none is marked it is the first. One without a decoder is skipped. For an icon it
  is the largest: icons have the same picture in several sizes.
  """
  attached = av.stream.Disposition.attached_pic
  default = av.stream.Disposition.default
  found = []
  for stream in container.streams:
    if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
      continue
    if stream.width and stream.height and not stream.disposition & attached:
      found.append(stream)
  found.sort(key=lambda stream: not stream.disposition & default)
  if "mp4" in container.format.name:  # Pictures beside a video (HEIF) have no duration.
    found.sort(key=lambda stream: stream.duration is None)
  if container.format.name == "ico":
    found.sort(key=lambda stream: -stream.width * stream.height)
  return found[0] if found else None


def is_image(container: av.container.InputContainer) -> bool:
  """Whether a file is one picture."""
  return container.format.name.endswith(("_pipe", "image2", "ico"))


def decoder(stream: av.VideoStream) -> av.VideoCodecContext:
  """The decoder of a stream: libvpx for WebM with transparency, as only it reads that."""
  name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec.canonical_name, "")
  if stream.metadata.get("alpha_mode") == "1" and name in av.codecs_available:
    made = av.CodecContext.create(name, "r")
    assert isinstance(made, av.VideoCodecContext)
    return made
  return stream.codec_context


def duration(
  container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[float | None, bool]:
  """Declared seconds, and whether they are of the video stream alone."""
  base = stream.time_base or 1
  if is_bare(container):
    return None, False  # FFmpeg would guess from the bit rate.
  start = float((stream.start_time or 0) * base)
  is_matroska = "matroska" in container.format.name
  if is_matroska and (tag := _clock_seconds(stream.metadata.get("DURATION", ""))):
    return tag - start, True
  # A stream of Matroska has none of its own: FFmpeg may give it that of the file.
  if stream.duration and not is_matroska:
    # ASF has one for the whole file, and repeats it for each stream.
    alone = container.format.name != "asf" or len(container.streams) == 1
    return float(stream.duration * base), alone
  if not container.duration:
    return None, False
  if not is_matroska:  # Its duration counts from zero.
    start -= (container.start_time or 0) / av.time_base
  return container.duration / av.time_base - start, len(container.streams) == 1


def rate(
  container: av.container.InputContainer, stream: av.VideoStream, seconds: float | None
) -> float:
  """Average frames per second; 25 where nothing plausible is declared.

  Args:
    container: of the stream.
    stream: the video.
    seconds: that it lasts, where declared.
  """
  counted = stream.frames / seconds if seconds and stream.frames else None
  rates = [stream.average_rate, counted, stream.guessed_rate]
  if is_bare(container):  # The average is FFmpeg's default; the codec's header has it.
    rates.insert(0, stream.codec_context.framerate)
  for value in rates:
    if value and 0 < value <= _FASTEST:
      return float(value)
  return 25.0


def _clock_seconds(text: str) -> float | None:
  """Seconds of `hours:minutes:seconds`; None for anything else."""
  try:
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
  except ValueError:
    return None
