"""Frames of any media file: upright, square, RGB, at one rate, in bounded memory."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import itertools
import os
import time

import numpy as np

from video_dit import config
from video_dit.media import container, still, video
from video_dit.media.errors import MediaError
from video_dit.media.resize import resize
from video_dit.media.video import Shown

_SEEK_FROM_SECONDS = 2.0  # Earlier starts are reached by decoding, without a seek.


def frames(
  path: str | os.PathLike,
  media: config.Media,
  *,
  size: tuple[int, int] | None = None,
  start_seconds: float = 0.0,
  end_seconds: float | None = None,
  watch: Callable[[Shown], Shown] | None = None,
) -> Iterator[np.ndarray]:
  """Decodes a media file, one frame held at a time.

  The n-th frame is what a player shows at `start_seconds + n / frames_per_second`, up
  to half a frame of either rate early, so that rounded time stamps neither repeat nor
  drop a frame. Time counts from the first frame. A frame shown for long is repeated;
  frames not shown at any of these times are dropped before they are converted. With
  `media.frames_per_second` 0 each frame of the file comes once.

  An image is one frame, whatever times are requested; a video of a single frame is one
  frame too, however long it lasts.

  Args:
    path: the file.
    media: the rate, limits, and whether to keep what comes before damage.
    size: `(height, width)` in pixels to resize to; None keeps the displayed size.
    start_seconds: time of the first frame wanted.
    end_seconds: time from which no frame is wanted; None is the end of the file.
    watch: called with each frame of the file as it is decoded, its times counted from
      the start of the file; returns the frame to continue with. The frames yielded by
      then are those shown before the previously decoded frame.

  Yields:
    uint8 RGB frames `(H, W, 3)`, each its own array.

  Raises:
    MediaError: the file breaks a limit or is unusable; damage and a missing end are
      raised after the last good frame, unless `media.keep_truncated`. If `end_seconds`
      comes first, the rest of the file is not read.
  """
  path = os.fspath(path)
  stopwatch = _Stopwatch(path, media.timeout_seconds)
  with still.open_image(path, media) as image:
    if image is not None:
      source = _still_frames(path, image, size, media)
      first, second = next(source), next(source, None)
      if second is None:
        yield (watch(first) if watch is not None else first).pixels()
        return
      source = itertools.chain((first, second), source)
      source = source if watch is None else map(watch, source)
      wanted = _sample(source, stopwatch, media, 100.0, start_seconds, end_seconds)
      yield from wanted
      return
  seeks = (start_seconds, 0.0) if start_seconds > _SEEK_FROM_SECONDS else (0.0,)
  for seek in seeks:
    with container.open_video(path, media) as clip:
      still_HWC = video.still(clip)
      if still_HWC is not None:
        make = functools.partial(resize, still_HWC, size or still_HWC.shape[:2])
        only = Shown(0.0, 0.0, make)
        yield (watch(only) if watch is not None else only).pixels()
        return
      if seek and not clip.seeks:  # Without times frames are counted from the start.
        continue
      source = video.shown(clip, size, seek)
      if seek:
        landed = _landed(source, start_seconds)
        if landed is None:
          continue
        source = landed
      rate = clip.frames_per_second
      source = source if watch is None else map(watch, source)
      yield from _sample(source, stopwatch, media, rate, start_seconds, end_seconds)
      return


def _sample(
  source: Iterator[Shown],
  stopwatch: "_Stopwatch",
  media: config.Media,
  source_rate: float,
  start: float,
  stop: float | None,
) -> Iterator[np.ndarray]:
  """Picks the frames shown at the ticks of the wanted rate."""
  rate = media.frames_per_second
  slack = 0.49 / max(source_rate, rate)
  stop = float("inf") if stop is None else stop
  ticks, current, pixels = 0, None, None
  for count, shown in enumerate(_with_end(source)):
    stopwatch.check()
    if rate == 0:
      if current is not None and start - slack <= current.seconds < stop - slack:
        pixels = current.pixels()
        with stopwatch.paused():
          yield pixels
      if shown is not None and shown.seconds >= stop - slack:
        return
      current = shown
      continue
    until = _until(shown, current, rate, slack)
    if shown is None and ticks == 0 and until >= start - 0.5 / rate:
      until = max(until, start + 0.5 / rate)  # However short it is, it has one frame.
    if shown is None and count == 1:
      until = min(until, start + 0.5 / rate)
    until = min(until, stop - 0.5 / rate if ticks else stop)
    while current is not None and start + ticks / rate < until:
      pixels = current.pixels() if pixels is None else pixels.copy()
      ticks += 1
      with stopwatch.paused():
        yield pixels
      stopwatch.check()
    if start + ticks / rate >= stop - 0.5 / rate:
      return
    current, pixels = shown, None


def _until(
  shown: Shown | None, current: Shown | None, rate: float, slack: float
) -> float:
  """Time before which ticks show the current frame, given the next one."""
  if shown is not None:
    return shown.seconds - slack
  return current.seconds + current.duration - 0.5 / rate if current is not None else 0.0


def _with_end(source: Iterator[Shown]) -> Iterator[Shown | None]:
  """The frames, then None, then the error if there is one."""
  try:
    yield from source
  except MediaError:
    yield None
    raise
  yield None


def _landed(source: Iterator[Shown], start: float) -> Iterator[Shown] | None:
  """The frames after a seek; None where it overshot or nothing decodes."""
  try:
    first = next(source)
    second = next(source)
  except (MediaError, StopIteration):
    return None
  return itertools.chain((first, second), source) if first.seconds <= start else None


def _still_frames(
  path: str, image, size: tuple[int, int] | None, media: config.Media
) -> Iterator[Shown]:
  """Frames of an image or an animated image."""
  count = 0
  try:
    for seconds, duration, frame_HWC in still.shown(path, image):
      container.check_length(path, seconds + duration, media)
      count += 1
      make = functools.partial(resize, frame_HWC, size or frame_HWC.shape[:2])
      yield Shown(seconds, duration, make)
  except MediaError as error:
    damage = error.reason in ("truncated", "damaged")
    if not (damage and count and media.keep_truncated):
      raise


class _Stopwatch:
  """Measures the time spent decoding, without the caller's time between frames."""

  def __init__(self, path: str, limit_seconds: float):
    self.path, self.limit = path, limit_seconds
    self.since, self.spent = time.monotonic(), 0.0

  def check(self) -> None:
    seconds = self.spent + time.monotonic() - self.since
    if seconds > self.limit:
      rule = f"over media.timeout_seconds={self.limit}."
      raise MediaError(self.path, "timeout", f"{seconds:.1f} s of decoding, {rule}")

  @contextlib.contextmanager
  def paused(self):
    self.spent += time.monotonic() - self.since
    yield
    self.since = time.monotonic()
