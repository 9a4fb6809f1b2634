"""Where a video is cut, by PySceneDetect's detectors, fed with our decoder's frames.

PySceneDetect's own readers are not used: OpenCV silently fails to decode AV1.
"""

import functools
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit import extras

# The detectors count frames; this rate only turns them into times and back.
_RATE = 25.0


class Detector:
  """Examines all frames of a video, in order."""

  def __init__(self, ingest: config_lib.Ingest):
    """Starts a video."""
    self._detector = _detector(
      ingest.shots, ingest.shot_threshold or None, ingest.shot_frames
    )
    self._next = 0
    self._cuts: list[int] = []

  def add(self, frame_HWC: np.ndarray) -> None:
    """Examines the next frame, uint8 RGB; all frames of a video have one size."""
    frame_HWC = np.ascontiguousarray(frame_HWC[..., ::-1])
    self._keep(self._detector.process_frame(_time(self._next), frame_HWC))
    self._next += 1

  def cuts(self) -> list[int]:
    """The first frames of all shots but the first, once all frames were seen."""
    if self._next:
      self._keep(self._detector.post_process(_time(self._next - 1)))
    return sorted(set(self._cuts))

  def _keep(self, times: list[Any]) -> None:
    self._cuts += [time if isinstance(time, int) else time.frame_num for time in times]


def check(ingest: config_lib.Ingest) -> None:
  """Refuses a config whose detector is not installed.

  Raises:
    ValueError: the extra is missing.
  """
  if ingest.shots == "off":
    return
  try:
    _detector(ingest.shots, ingest.shot_threshold or None, ingest.shot_frames)
  except ImportError as error:
    raise ValueError(
      f"config.ingest.shots={ingest.shots!r} needs PySceneDetect ({error}). Install it:"
      f" {extras.command('shots')}, or set config.ingest.shots=off."
    ) from error


def _detector(name: str, threshold: float | None, frames: int) -> Any:
  from scenedetect import detectors

  if name == "content":
    known = {} if threshold is None else {"threshold": threshold}
    return detectors.ContentDetector(min_scene_len=frames, **known)
  known = {} if threshold is None else {"adaptive_threshold": threshold}
  return detectors.AdaptiveDetector(min_scene_len=frames, **known)


def _time(frame: int) -> Any:
  """A frame's number as the installed version of PySceneDetect takes it."""
  return frame if _takes_numbers() else _timecode(frame)


def _timecode(frame: int) -> Any:
  from scenedetect import FrameTimecode

  return FrameTimecode(frame, _RATE)


@functools.cache
def _takes_numbers() -> bool:
  """Before 0.7 detectors took the frame's number."""
  import scenedetect

  return tuple(map(int, scenedetect.__version__.split(".")[:2])) < (0, 7)
