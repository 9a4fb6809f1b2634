"""Small made-up data sets for the tests of this room."""

from collections.abc import Iterator
import hashlib
import pathlib

import numpy as np

from video_dit.data import existing, schema, writer

CHANNELS = 3
TEXT_WIDTH = 5


def metadata(**changes) -> schema.Metadata:
  """Of a made-up set of latents; the empty caption is one token of -1."""
  fields = {
    "kind": "latents",
    "autoencoder": "ae-1",
    "autoencoder_path": "/models/ae",
    "channels": CHANNELS,
    "space": 8,
    "time": 4,
    "text": "t5-1",
    "text_width": TEXT_WIDTH,
    "empty": np.full((1, TEXT_WIDTH), -1, np.float16),
  }
  return schema.Metadata(**(fields | changes))


def key(i: int) -> str:
  """The key of the i-th clip."""
  return hashlib.sha256(f"clip {i}".encode()).hexdigest()[:32]


def records(num: int, start: int = 0) -> Iterator[tuple[schema.LatentRecord, str]]:
  """Clips of many sizes with their splits; every fifth is for validation."""
  for i in range(start, start + num):
    rng = np.random.default_rng(i)
    t, h, w = rng.integers(1, 6), 2 * rng.integers(1, 4), 2 * rng.integers(1, 4)
    record = schema.LatentRecord(
      key=key(i),
      latent=rng.normal(size=(t, h, w, CHANNELS)).astype(np.float16),
      text=rng.normal(size=(rng.integers(1, 7), TEXT_WIDTH)).astype(np.float16),
      caption=f"clip {i} à voir",
      frames_per_second=8.0,
      frames=int(1 + 4 * (t - 1)),
      height=int(8 * h),
      width=int(8 * w),
    )
    yield record, "validation" if i % 5 == 4 else "train"


def committed(folder: pathlib.Path) -> set[str]:
  """The keys that a set holds, finished or not."""
  return {key for _, keys, _ in existing.committed(folder) for key in keys}


def write(folder: pathlib.Path, num: int, shard_records: int = 16) -> pathlib.Path:
  """A finished set."""
  with writer.ShardWriter(folder, metadata(), shard_records=shard_records) as w:
    for record, split in records(num):
      w.write(record, split)
    w.finish()
  return folder
