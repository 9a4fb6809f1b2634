"""Frames of video files: their times, and their pixels as displayed.

Frames are decoded by one thread, so that damage is noticed and not skipped. PyAV's
logging is left as it is: setting its level can hang decoding.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import NamedTuple

import av
from av.video.frame import PictureType
import numpy as np

from video_dit.media import elements, heif, known, riff
from video_dit.media.container import HOPELESS, Video, check_length, coded
from video_dit.media.errors import MediaError
from video_dit.media.picture import Painter, displayed_size
from video_dit.media.still import check_size
from video_dit.media.times import Times


class Shown(NamedTuple):
  """One decoded frame and when it is shown.

  Attributes:
    seconds: since the start of the stream.
    duration: seconds that it is shown if nothing follows.
    pixels: makes the uint8 RGB frame `(H, W, 3)`; costly, so call it once.
  """

  seconds: float
  duration: float
  pixels: Callable[[], np.ndarray]


def shown(
  video: Video, size: tuple[int, int] | None = None, seek_seconds: float = 0.0
) -> Iterator[Shown]:
  """Decodes in display order; pixels are converted only on request.

  Times are those of the file, repaired where they run backwards. An AVI has only decoding
  times; the n-th frame shown gets the n-th of them, and the last is shown until the end
  of the empty chunks behind it, which repeat it.

  Args:
    video: an open video.
    size: `(height, width)` of the frames; None is the displayed size.
    seek_seconds: frames earlier than the key frame before this time may be left out. The
      first frame is a key frame, if it is not later.

  Yields:
    Frames with ascending times.

  Raises:
    MediaError: `damaged` or `truncated` after the last good frame (not with
      `media.keep_truncated`), `unreadable` where no frame decodes, `too_large`,
      `too_long`.
  """
  skip = _seek(video, seek_seconds) if seek_seconds > 0 else 0
  times, tally = video.times(), _Tally()
  painter, checked = Painter(video.stream, size, crop=video.crop), None
  if seek_seconds <= 0 and "matroska" in video.container.format.name:
    tally.fault = elements.fault(video.path)
  held: Shown | None = None  # of an AVI, whose next chunks may be empty
  for frame in _decoded(video, tally, times, skip):
    if checked != (frame.height, frame.width):  # A stream may change its size.
      checked = frame.height, frame.width
      check_size(video.path, *checked, video.media)
      check_size(
        video.path, *displayed_size(video.stream, frame, video.crop), video.media
      )
    seconds = times.of(frame)
    check_length(video.path, seconds, video.media)
    if 0 < seek_seconds >= seconds and not tally.frames and _refers_back(frame):
      tally.packets -= 1
      continue
    duration = (frame.duration or 0) * video.tick or 1 / video.frames_per_second
    tally.frames, tally.end = tally.frames + 1, seconds + duration
    tally.interlaced |= frame.interlaced_frame
    now = Shown(seconds, duration, functools.partial(_paint, video, painter, frame))
    ready, held = (held, now) if video.is_avi else (now, None)
    if ready is not None:
      yield ready
  if held is not None:
    more = _repeated(video, tally)
    tally.end += more
    yield held._replace(duration=held.duration + more)
  if not tally.frames:
    raise MediaError(video.path, "unreadable", "no frame of the video decodes.")
  problem = tally.problem or _missing(video, tally, times)
  if problem is not None and not video.media.keep_truncated:
    reason, message = problem
    remedy = "; media.keep_truncated=True keeps what comes before."
    raise MediaError(video.path, reason, message + remedy)


def still(video: Video) -> np.ndarray | None:
  """The uint8 RGB picture `(H, W, 3)` of a HEIF file just opened; None for a video.

  Raises:
    MediaError: `damaged`.
  """
  if video.picture is None:
    return None
  return heif.paint(video.path, video.container, video.picture)


def _seek(video: Video, seconds: float) -> int:
  """Seeks near a time; returns how many coded frames must still be skipped."""
  try:
    if video.is_broadcast and _leaps(video):
      return _key_before(video, seconds)
    stamp = int((seconds + (video.zero or 0.0)) / video.tick)
    video.container.seek(stamp, stream=video.stream)
  except av.error.FFmpegError as error:
    message = f"cannot seek to {seconds:.2f} s: {error}"
    raise MediaError(video.path, "unreadable", message) from error
  return 0


def _leaps(video: Video) -> bool:
  """Whether the clock of a broadcast jumps anywhere; determined once per file."""

  def find() -> bool:
    times = video.times()
    return any(times.leaps for _ in coded(video, times))

  return known.once(video.path, "leaps", find)


def _refers_back(frame: av.VideoFrame) -> bool:
  """Whether a frame after a seek needs frames before it, as far as decoders tell.

  Containers mark points of recovery as key frames too, from which a picture is complete
  only after some frames (periodic intra refresh).
  """
  return not frame.key_frame and frame.pict_type != PictureType.NONE


def _key_before(video: Video, seconds: float) -> int:
  """Number of the last coded frame before a time that can be decoded by itself."""
  found = 0
  for number, (is_key, shown_at) in enumerate(coded(video)):
    if shown_at > seconds + 1:  # Frames are not coded in display order.
      break
    if is_key and shown_at <= seconds:
      found = number
  return found


def _paint(video: Video, painter: Painter, frame: av.VideoFrame) -> np.ndarray:
  """The pixels of a frame; a frame that cannot be converted is `unsupported`."""
  floating = "f32" in frame.format.name or "f16" in frame.format.name
  if floating and video.decoder.codec.name != "exr":
    message = "floating-point pixels, whose white is unknown; convert it to 8 bits."
    raise MediaError(video.path, "unsupported", message)
  try:
    return painter(frame)
  except (av.error.FFmpegError, ValueError, MemoryError) as error:
    message = f"{frame.format.name} pixels cannot be converted to RGB: {error}"
    raise MediaError(video.path, "unsupported", message) from error


def first_frame(video: Video) -> av.VideoFrame:
  """Decodes the first frame, its size checked.

  Args:
    video: a video just opened; it cannot be decoded from its start afterwards.

  Returns:
    PyAV's frame.

  Raises:
    MediaError: `unreadable` where none decodes, `too_large`, `too_small`.
  """
  for frame in _decoded(video, _Tally(), video.times()):
    check_size(video.path, *displayed_size(video.stream, frame, video.crop), video.media)
    return frame
  raise MediaError(video.path, "unreadable", "no frame of the video decodes.")


@dataclasses.dataclass
class _Tally:
  """What decoding has met so far; times in seconds from the start of the stream.

  Attributes:
    frames: that came out.
    end: of the last of them.
    fault: where a Matroska or WebM file no longer adds up.
    packets: of the video that went in, except those outside an edit list and those
      before the start.
    packet_end: end of the last of them.
    file_end: end of the last packet of any stream.
    interlaced: a frame may be made of two packets.
    problem: what ended decoding early: a reason and a message.
  """

  frames: int = 0
  end: float = 0.0
  fault: int | None = None
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
    start = stamp * tick - (video.zero or 0.0)
    end = start + (packet.duration or 0) * tick
    self.file_end = max(self.file_end, end)
    if of_video and packet.size and not packet.is_discard and start >= 0:
      self.packets += 1
      # Its duration is often that from one decoding time to the next.
      self.packet_end = max(self.packet_end, start)


def _decoded(
  video: Video, tally: _Tally, times: Times, skip: int = 0
) -> Iterator[av.VideoFrame]:
  """Frames up to the first damage, which is recorded in the tally."""
  packets = _packets(video, tally, times, skip)
  failures = 0
  while failures < HOPELESS:
    try:
      packet = next(packets, None)
      if packet is None:
        return
      frames = video.decoder.decode(packet)
    except (av.error.FFmpegError, ValueError) as error:
      if not tally.frames:
        failures += 1  # A part cut out of a stream begins with undecodable frames.
        continue
      problem = "damaged", f"decoding failed at {tally.end:.2f} s: {error}"
      if _is_over(packets):
        problem = "truncated", f"cut off at {tally.end:.2f} s: {error}"
      tally.problem = problem
      return
    for frame in frames:
      if frame.is_corrupt:
        tally.problem = "damaged", f"the picture at {tally.end:.2f} s is broken"
        return
      yield frame


def _packets(video: Video, tally: _Tally, times: Times, skip: int) -> Iterator[av.Packet]:
  """Packets of the video except the first, times repaired, up to one that lost bytes.

  Where files were joined the numbers of their parts are not consecutive, so that an
  intact packet is marked as corrupt, or the one before it. The next two packets tell: the
  clock jumps, or a frame that can be decoded by itself comes in time.
  """
  marked: list[av.Packet] = []
  for packet in video.container.demux():
    of_video = packet.stream.index == video.stream.index
    leapt = of_video and times.add(packet)
    if of_video and packet.size and skip:
      skip -= 1
      continue
    tally.add(packet, video)
    if not of_video:
      continue
    behind = tally.fault is not None and (packet.pos or 0) >= tally.fault
    if behind and tally.frames:
      tally.problem = "damaged", f"bytes are missing at {tally.end:.2f} s"
      return
    in_time = packet.is_keyframe and times.apart < 2.5 / video.frames_per_second
    if leapt or in_time or not packet.size:
      yield from marked
      marked = []
    if len(marked) == 2:
      tally.problem = "damaged", f"bytes are missing at {tally.end:.2f} s"
      return
    if marked or (packet.is_corrupt and tally.frames):
      marked.append(packet)
    elif packet.size or packet.dts is None:
      yield packet  # An empty chunk repeats a frame; PyAV would take it for the end.


def _is_over(packets: Iterator[av.Packet]) -> bool:
  """Whether no packet of the video is left."""
  try:
    return not any(packet.size for packet in packets)
  except av.error.FFmpegError:
    return True


def _repeated(video: Video, tally: _Tally) -> float:
  """Seconds for which empty chunks of an AVI repeat its last frame."""
  if tally.problem or not video.duration or tally.end >= video.duration - video.tick / 2:
    return 0.0
  with open(video.path, "rb") as file:
    return riff.last_repeats(file, video.stream.index) * video.tick


def _missing(video: Video, tally: _Tally, times: Times) -> tuple[str, str] | None:
  """Finds what a decoder leaves out silently."""
  slack = 0.1 + 2 / video.frames_per_second
  reached = tally.end if video.exact else max(tally.end, tally.file_end)
  told = None if times.leaps else video.duration  # A clock that jumps tells nothing.
  if told and reached < told - slack:
    return "truncated", f"ends at {reached:.2f} s of {told:.2f} s declared"
  lost_end = tally.end < tally.packet_end - 0.5 - 2 * slack
  # Some packets are only for reference; in interlaced video two make a frame.
  lost_frames = tally.frames < 0.75 * tally.packets and not tally.interlaced
  if lost_end or lost_frames:
    return "damaged", f"{tally.packets} packets give only {tally.frames} frames"
  return None
