"""What the worker processes do: examine one file, or decode one of its clips.

Imports no JAX. Every file is decoded once, whole, before anything is made from it
(`survey`).
"""

from collections.abc import Callable, Iterator
import dataclasses
import errno
import hashlib
import itertools
from typing import Any

import numpy as np

from video_dit import config as config_lib
from video_dit.media import decode as decode_lib
from video_dit.media import errors, video
from video_dit.media import probe as probe_lib
from video_dit.media import resize as resize_lib
from video_dit.preprocess import fetched, measure, remote, survey, unchanged

# Errors of disks and networks; those of a file's content have other numbers or none.
_ELSEWHERE = (
  *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
  *(errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examine:
  """A file to examine: `file`, or `record` of a TFDS split; a part of it by seconds."""

  id: bytes
  file: str
  record: int | None
  start_seconds: float
  end_seconds: float | None
  media: config_lib.Media
  ingest: config_lib.Ingest = config_lib.Ingest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decode:
  """A clip to decode, or several that follow each other, as the table has them.

  `sha256` and `stamp` are of the file when it was examined; "" for one that is unknown.
  """

  file: str
  record: int | None
  start_seconds: float
  end_seconds: float | None
  frames_per_second: float
  first_frame: int
  frames: int
  size: tuple[int, int]
  media: config_lib.Media
  sha256: str = ""
  stamp: str = ""


def work(
  job: Examine | Decode, folder: str | None = None
) -> tuple[dict[str, Any], np.ndarray | None]:
  """Does one job.

  Args:
    job: the work.
    folder: of fetched files (`fetched.local`).

  Returns:
    For `Examine` the facts of the file, for `Decode` `(F, H, W, 3)` uint8. What is wrong
    with the file comes as `{"reason": ..., "message": ...}`.
  """
  try:
    if job.record is not None:  # its data set is read in place
      return _work(job)
    with fetched.local(job.file, folder) as file:
      with open(file, "rb"):  # Check read permission here, not in the decoder.
        pass
      with unchanged.while_read(file) as stamp:
        if isinstance(job, Decode):
          unchanged.check(file, stamp, job.stamp, job.sha256)
        found, pixels = _work(dataclasses.replace(job, file=file))
      if isinstance(job, Examine) and not remote.is_remote(job.file):
        found = found | {"stamp": stamp}
      return found, pixels
  except errors.MediaError as error:
    return {"reason": error.reason, "message": error.message}, None
  except OSError as error:
    reason = "unreachable" if error.errno in _ELSEWHERE else "unreadable"
    return {"reason": reason, "message": error.strerror or str(error)}, None
  except MemoryError:
    return {"reason": "too_large", "message": "exceeds the memory limit"}, None


def _work(job: Examine | Decode) -> tuple[dict[str, Any], np.ndarray | None]:
  if isinstance(job, Examine):
    return _examine(job), None
  return {}, _decode(job)


# ---------------------------------------------------------------------------- examining


def _examine(job: Examine) -> dict[str, Any]:
  if job.record is not None:
    return _examine_record(job)
  digest = unchanged.digest(job.file)
  probe = probe_lib.probe(job.file, job.media)
  kind = probe.kind
  seen = survey.Survey(job.ingest, job.media.frames_per_second, job.start_seconds)
  size = measure.size(probe.height, probe.width, job.ingest.side)
  for _ in _look(job, job.media, size, seen.watch):
    seen.ticks += 1
  if kind == "video" and seen.ticks == 1:
    own_rate = dataclasses.replace(job.media, frames_per_second=0.0)
    kind = "image" if sum(1 for _ in _look(job, own_rate, (16, 16))) == 1 else kind
  rate = job.media.frames_per_second or seen.rate(probe.frames_per_second or 0.0)
  return {
    "sha256": digest,
    "kind": kind,
    "codec": probe.codec,
    "height": probe.height,
    "width": probe.width,
    "rotation": probe.rotation,
    "bit_depth": probe.bit_depth,
    "audio": probe.audio,
    "source_frames_per_second": probe.frames_per_second or 0.0,
    "duration_seconds": probe.duration_seconds or 0.0,
    "declared_frames": probe.frames,
    "decoded_frames": seen.decoded,
    "decoded_seconds": 0.0 if kind == "image" else seen.end_seconds,
    "frames_per_second": 0.0 if kind == "image" else rate,
    "frames": seen.ticks,
    **seen.finish(),
  }


def _look(
  job: Examine,
  media: config_lib.Media,
  size: tuple[int, int],
  watch: Callable[[video.Shown], video.Shown] | None = None,
) -> Iterator[np.ndarray]:
  return decode_lib.frames(
    job.file,
    media,
    size=size,
    start_seconds=job.start_seconds,
    end_seconds=job.end_seconds,
    watch=watch,
  )


def _examine_record(job: Examine) -> dict[str, Any]:
  from video_dit.preprocess import tfds_source

  clip, rate, caption = tfds_source.read(job.file, job.record or 0, job.media)
  frames, height, width = clip.shape[:3]
  if min(height, width) < job.media.min_side:
    message = f"{width}x{height} pixels; config.media.min_side={job.media.min_side}."
    raise errors.MediaError(tfds_source.shown(job.file), "too_small", message)
  kind = "image" if frames == 1 else "video"
  size = measure.size(height, width, job.ingest.side)
  small = (resize_lib.resize(frame_HWC, size) for frame_HWC in clip)
  return {
    "sha256": _digest(clip, rate),
    "kind": kind,
    "codec": "tfds",
    "height": height,
    "width": width,
    "rotation": 0,
    "bit_depth": 8,
    "audio": False,
    "source_frames_per_second": rate,
    "duration_seconds": frames / rate if rate else 0.0,
    "declared_frames": frames,
    "decoded_frames": frames,
    "decoded_seconds": frames / rate if rate else 0.0,
    "frames_per_second": 0.0 if kind == "image" else rate,
    "frames": frames,
    "caption": caption,
    **survey.of_clip(small, rate, job.ingest),
  }


def _digest(clip_FHWC: np.ndarray, rate: float) -> str:
  """SHA-256 of a record's clip."""
  digest = hashlib.sha256(f"{clip_FHWC.shape} {rate}".encode())
  digest.update(np.ascontiguousarray(clip_FHWC).data)
  return digest.hexdigest()


# ----------------------------------------------------------------------------- decoding


def _decode(job: Decode) -> np.ndarray:
  """Decodes from near the clip; if that yields too few frames, from the beginning.

  Frames at a file's own rate need not be evenly spaced, so they are counted.
  """
  if job.first_frame and job.record is None and job.media.frames_per_second:
    try:
      return _gather(job, _frames(job, job.first_frame / job.frames_per_second))
    except errors.MediaError:
      pass
  return _gather(job, itertools.islice(_frames(job, 0.0), job.first_frame, None))


def _frames(job: Decode, skip_seconds: float) -> Iterator[np.ndarray]:
  if job.record is None:
    return decode_lib.frames(
      job.file,
      job.media,
      size=job.size,
      start_seconds=job.start_seconds + skip_seconds,
      end_seconds=job.end_seconds,
    )
  from video_dit.preprocess import tfds_source

  clip, rate, _ = tfds_source.read(job.file, job.record, job.media)
  if job.sha256 and _digest(clip, rate) != job.sha256:
    raise unchanged.changed(tfds_source.shown(job.file))
  return (resize_lib.resize(frame, job.size) for frame in clip)


def _gather(job: Decode, frames: Iterator[np.ndarray]) -> np.ndarray:
  clip_FHWC = np.empty((job.frames, *job.size, 3), np.uint8)
  count = 0
  for count, frame in enumerate(itertools.islice(frames, job.frames), 1):
    clip_FHWC[count - 1] = frame
  if count < job.frames:
    message = f"{count} of {job.frames} frames decoded; did the file change?"
    raise errors.MediaError(job.file, "truncated", message)
  return clip_FHWC
