"""One pass over a file: how many frames it has, where it is cut, what they are like.

Every frame is decoded, for headers may be wrong and damage shows only on decoding; but
only those that are examined are converted, at the size at which they are measured.
"""

import base64
from collections import deque
from collections.abc import Callable, Iterable
import dataclasses
import functools
import math
from typing import Any, NamedTuple
import zlib

import numpy as np

from video_dit import config as config_lib
from video_dit.media import video
from video_dit.preprocess import measure, shots

_NOTHING = np.zeros((1, 1, 3), np.uint8)
_AGREES = 0.02  # share by which a rate may be off, because a file ends within a frame
_SLACK_SECONDS = 0.01  # Time stamps are rounded.
_MOST_HELD = 1 << 14  # samples of one held frame; a file may be wrong about its pauses


class _Sample(NamedTuple):
  """Fields of `measure.DTYPE` of a frame; a tick that is None is the first to show it."""

  number: int
  tick: int | None
  fields: list


class Survey:
  """Examines the frames of one file as they are decoded.

  A frame that is held while further samples are due is sampled again for further ticks
  that show it, as if the file repeated it: a pause measures alike at constant and at
  variable rates. At a file's own rate each frame is one tick, and is sampled once.

  Attributes:
    ticks: frames at the clips' rate so far; the caller counts them.
    decoded: frames of the file.
    begin_seconds, end_seconds: of the frames decoded.
  """

  def __init__(self, ingest: config_lib.Ingest, rate: float, start_seconds: float = 0.0):
    """Starts a file.

    Args:
      ingest: what to examine.
      rate: of the clips, in frames a second; 0 is the file's own.
      start_seconds: frames that end before it are not examined.
    """
    self.ticks, self.decoded = 0, 0
    self.begin_seconds, self.end_seconds = 0.0, 0.0
    self._ingest, self._rate, self._start = ingest, rate, start_seconds
    self._step = 1 / ingest.samples_per_second
    self._detector = None if ingest.shots == "off" else shots.Detector(ingest)
    self._detected: list[int] = []  # Numbers of the frames that the detector saw.
    self._shown: list[tuple[int, int]] = []  # Frames of the file, and their first ticks.
    self._samples: list[tuple[int, list]] = []
    self._pending: deque[_Sample] = deque()  # Of frames not yet shown.
    self._last: list = []
    self._before: measure.Before | None = None
    self._due = 0.0
    self._converted = self._follows = False
    self._measured = self._latest = -1  # Numbers of the frames last measured and shown.
    self._pixels: Callable[[], np.ndarray] | None = None  # Of the frame decoded last.

  def watch(self, shown: video.Shown) -> video.Shown:
    """Examines a frame; passes on its times, without the picture."""
    number = self.decoded
    if number:
      self._hold(shown.seconds)
    else:
      self.begin_seconds = shown.seconds
    self.decoded += 1
    self.end_seconds = shown.seconds + shown.duration
    self._pixels = functools.cache(shown.pixels)
    show = functools.partial(self._show, number)
    if self.end_seconds >= self._start:
      is_due = self._ingest.measure and shown.seconds >= self._due - _SLACK_SECONDS
      if self._detector is not None or is_due or self._follows or not self._converted:
        frame_HWC, self._converted = self._pixels(), True
        if self._detector is not None:
          self._detector.add(frame_HWC)
          self._detected.append(number)
        if self._follows:
          self._follow(frame_HWC, shown.seconds)
        if is_due:
          self._look(frame_HWC, shown.seconds, number)
    return video.Shown(shown.seconds, shown.duration, show)

  def rate(self, declared: float) -> float:
    """Mean frames per second of what was decoded; the declared rate where they agree."""
    seconds = self.end_seconds - self.begin_seconds
    mean = self.decoded / seconds if seconds > 0 else declared
    return declared if abs(mean - declared) <= _AGREES * declared else mean

  def finish(self) -> dict[str, Any]:
    """What was seen: `cuts`, in frames at the clips' rate, and packed `samples`."""
    if self.decoded:
      self._hold(self.end_seconds)
      self._flush()
    cuts = set()
    if self._detector is not None and self._shown:
      numbers, ticks = (np.array(column) for column in zip(*self._shown, strict=True))
      first = [self._detected[frame] for frame in self._detector.cuts()]
      # A frame that no tick shows gives its cut to the next one that is shown.
      places = np.searchsorted(numbers, first)
      cuts = {int(ticks[place]) for place in places if place < len(ticks)} - {0}
    samples = [(tick, *fields) for tick, fields in self._samples if tick < self.ticks]
    return {"cuts": sorted(cuts), "samples": pack(np.array(samples, measure.DTYPE))}

  def _look(self, frame_HWC: np.ndarray, seconds: float, number: int) -> None:
    fields, self._before = measure.measure(frame_HWC, seconds, self._before)
    self._pending.append(_Sample(number, None, fields))
    self._last, self._measured = fields, number
    self._due = max(self._due + self._step, max(seconds, self._start) + 0.5 * self._step)
    self._follows = True

  def _follow(self, frame_HWC: np.ndarray, seconds: float) -> None:
    """Examines the frame after a measured one."""
    assert self._before is not None
    self._last[measure.ONWARD] = measure.onward(frame_HWC, seconds, self._before)
    self._follows = False

  def _hold(self, until: float) -> None:
    """Samples the frame decoded last where it is held, to half a step before `until`."""
    due, number = max(self._due, self._start), self.decoded - 1
    if not (self._rate and self._ingest.measure) or until < due + 0.5 * self._step:
      return
    end = self._tick(until)
    if self._tick(due) >= end:  # No further tick shows it.
      return
    if number != self._measured:
      assert self._pixels is not None
      self._look(self._pixels(), due, number)
      self._pending[-1] = self._pending[-1]._replace(tick=self._tick(due))
    self._last[measure.ONWARD], self._follows = [0.0, 0.0], False
    assert self._before is not None
    fields = measure.held(self._last, self._before)
    count = max(0, math.floor((until - self._due) / self._step + 0.5))
    steps = np.linspace(0, count - 1, min(count, _MOST_HELD)).round()
    for seconds in (self._due + self._step * steps).tolist():
      if self._tick(self._before.seconds) < self._tick(seconds) < end:
        self._pending.append(_Sample(number, self._tick(seconds), fields))
        self._before = dataclasses.replace(self._before, seconds=seconds)
    self._due += count * self._step

  def _tick(self, seconds: float) -> int:
    """The tick that shows what is on show at a time, as `decode.frames` counts them."""
    return max(0, math.ceil((seconds - self._start) * self._rate - 0.49))

  def _show(self, number: int) -> np.ndarray:
    """Called where a frame of the file is about to be shown for a tick."""
    if self._detector is not None and (not self._shown or self._shown[-1][0] != number):
      self._shown.append((number, self.ticks))
    self._latest = number
    self._flush()
    return _NOTHING

  def _flush(self) -> None:
    """Gives their ticks to the samples of the frames shown so far."""
    while self._pending and self._pending[0].number <= self._latest:
      _, tick, fields = self._pending.popleft()
      last = self._samples[-1][0] if self._samples else 0
      self._samples.append((max(last, self.ticks if tick is None else tick), fields))


def of_clip(
  frames: Iterable[np.ndarray], rate: float, ingest: config_lib.Ingest
) -> dict[str, Any]:
  """Surveys frames `(H, W, 3)` uint8, already small, that are all in memory."""
  seen = Survey(ingest, rate)
  seconds = 1 / rate if rate else 0.0
  for i, frame_HWC in enumerate(frames):
    shown = video.Shown(i * seconds, seconds, functools.partial(np.asarray, frame_HWC))
    seen.watch(shown).pixels()
    seen.ticks += 1
  return seen.finish()


def pack(samples: np.ndarray) -> str:
  """Samples as text."""
  return base64.b64encode(zlib.compress(samples.tobytes())).decode("ascii")


def unpack(text: str) -> np.ndarray:
  """Samples from the text of `pack`."""
  return np.frombuffer(zlib.decompress(base64.b64decode(text)), measure.DTYPE)
