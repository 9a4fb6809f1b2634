"""Builds rows of arrays from the records that a plan groups."""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import hashlib
import math
import struct

import numpy as np

from video_dit import config
from video_dit.data import batch, patchify, schema


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
  """A run of latent frames of one record; usually all of them.

  Attributes:
    record: the clip.
    first, count: latent frames of the run.
    run: number of the run in its clip.
    copy: how often the run has come before in its epoch.
  """

  record: schema.LatentRecord
  first: int
  count: int
  run: int = 0
  copy: int = 0


@dataclasses.dataclass(frozen=True)
class Gap:
  """The place of a segment whose record cannot be used.

  Its tokens keep a number of their own, because kernels rely on ascending ones, but hold
  zeros, have no caption and weigh nothing.

  Attributes:
    tokens: that the segment would have.
  """

  tokens: int


def assemble(
  rows: Sequence[Iterable[Segment | Gap]],
  metadata: schema.Metadata,
  data: config.Data,
  dit: config.DiT,
  *,
  seed: int,
  step: int,
) -> batch.Batch:
  """Packs segments into arrays, dropping captions by `data.caption_dropout`.

  Args:
    rows: segments of each row, within the limits of `data`; a row may be empty.
    metadata: of the data set.
    data: extents of a row, and the dropout.
    dit: `patch` and the rotary scales.
    seed, step: decide, with a segment's key, which of its captions is taken, and whether
      it is dropped.

  Returns:
    A batch of NumPy arrays; every segment has weight 1, and every gap 0.
  """
  out = batch.blank(
    len(rows),
    data.row_length,
    data.row_segments,
    data.row_text,
    patch_dim=math.prod(dit.patch) * metadata.channels,
    text_width=metadata.text_width,
    dtype=np.float16,
  )
  for r, segments in enumerate(rows):
    token = text_token = 0
    for s, segment in enumerate(segments):
      if isinstance(segment, Gap):
        out.segments[r, token : (token := token + segment.tokens)] = s + 1
        continue
      record = segment.record
      latent = record.latent[segment.first : segment.first + segment.count]
      grid = patchify.grid(latent.shape[:3], dit.patch)
      here = slice(token, token := token + math.prod(grid))
      key = segment_key(record.key, segment.run, segment.copy)
      text = record.draw_text(draw(seed, step, key, b"caption"))
      if draw(seed, step, key) < data.caption_dropout:
        assert metadata.empty is not None, "loader.steps refuses such a set"
        text = metadata.empty
      there = slice(text_token, text_token := text_token + len(text))
      out.patches[r, here] = patchify.patchify(latent, dit.patch)
      out.segments[r, here] = s + 1
      out.positions[r, here], out.frames[r, here] = _places(
        grid, dit, metadata.time, record.frames_per_second, segment.first
      )
      out.keys[r, s] = key
      out.tokens[r, s] = math.prod(grid)
      out.weights[r, s] = 1.0
      out.text[r, there] = text
      out.text_segments[r, there] = s + 1
  return out


@functools.lru_cache(maxsize=64)
def _places(
  grid: patchify.Extent, dit: config.DiT, time: int, rate: float, first: int
) -> tuple[np.ndarray, np.ndarray]:
  """Positions and frames of a segment's tokens; cached, as few kinds are common."""
  positions = patchify.positions(
    grid, dit=dit, time=time, frames_per_second=rate, first=first
  )
  return positions, patchify.frames(grid, dit.patch, first)


def segment_key(key: str, run: int = 0, copy: int = 0) -> np.ndarray:
  """`(2,)` uint32: 8 bytes of a record's key; others for each later run and copy."""
  words = bytes.fromhex(key[:16])
  if run or copy:
    number = struct.pack(">q", copy << 32 | run)
    words = hashlib.blake2b(words + number, digest_size=8).digest()
  return np.frombuffer(words, ">u4").astype(np.uint32)


def draw(seed: int, step: int, key: np.ndarray, purpose: bytes = b"") -> float:
  """A number in [0, 1) that depends on these arguments only."""
  words = struct.pack(">qqII", seed, step, *key.tolist())
  digest = hashlib.blake2b(words, digest_size=8, person=purpose).digest()
  return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
