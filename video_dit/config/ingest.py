"""Settings of how clips are cut, measured and chosen."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ingest:
  """How clips are cut, measured and chosen; every limit keeps all clips by default.

  Results that depend on `measure`, `side`, `samples_per_second` and the shots are kept
  for every file; all else can be changed without reading the media again
  (docs/ingest.md).

  Attributes:
    measure: measure clips while their files are examined; limits on a clip's content
      and near-duplicates need it.
    side: greatest side, in pixels, of the frames that are measured; 480 sees subtitles.
    samples_per_second: frames measured per second.
    shots: cut where PySceneDetect's detector of that name sees a cut (extra `shots`).
    shot_threshold: of the detector; 0 takes PySceneDetect's own.
    shot_frames: least frames of the file between two cuts.
    black_level: a frame is black if 98 % of its luma is at or below it, of 255.
    frozen_level: a frame is frozen if no part of it has changed by more, of 255.
    min_side: least height and width of the source, in pixels.
    min_seconds: least length of a clip of a video.
    min_aspect, max_aspect: width over height of the source; 0 is no limit.
    max_black, max_frozen: greatest share of black frames, and of frozen ones.
    max_black_seconds, max_frozen_seconds: longest run of such frames; 0 is no limit.
    min_motion, max_motion: frame heights per second; a `max_motion` of 0 is no limit.
    min_sharpness: least variance of the Laplacian.
    max_text: greatest share of the frame covered by overlaid text.
    min_caption: least characters of the longest caption.
    near_duplicates: reject clips that look like an earlier one.
    duplicate_bits: most bits, of 64, in which hashes of near-duplicate frames differ.
    thumbnails: pictures in the report of kept clips, and of clips rejected for each
      reason.
  """

  measure: bool = True
  side: int = 320
  samples_per_second: float = 4.0
  shots: Literal["off", "content", "adaptive"] = "off"
  shot_threshold: float = 0.0
  shot_frames: int = 5
  black_level: int = 32
  frozen_level: float = 3.0
  min_side: int = 0
  min_seconds: float = 0.0
  min_aspect: float = 0.0
  max_aspect: float = 0.0
  max_black: float = 1.0
  max_frozen: float = 1.0
  max_black_seconds: float = 0.0
  max_frozen_seconds: float = 0.0
  min_motion: float = 0.0
  max_motion: float = 0.0
  min_sharpness: float = 0.0
  max_text: float = 1.0
  min_caption: int = 0
  near_duplicates: bool = False
  duplicate_bits: float = 6.0
  thumbnails: int = 12
