"""What a record is made of: pixels as they are, or latents by the frozen encoders."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from video_dit import config as config_lib
from video_dit.data import schema
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import captions as captions_lib
from video_dit.preprocess import cuts, tiles
from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import rows as rows_lib

# Everything else that decides a record is in its key or the encoders' fingerprints.
_SETTINGS = f"cuts {cuts.VERSION}"
_CAPTIONS_AHEAD = 256


class Maker(Protocol):
  """Makes the records of one kind of data set.

  Attributes:
    metadata: of the set.
    rules: how clips are put together.
  """

  metadata: schema.Metadata
  rules: batches_lib.Rules

  def begin(self, batches: Sequence[batches_lib.Batch]) -> None:
    """Announces what will be made, in order."""

  def encode(self, batch: batches_lib.Batch, clips_BFHWC: np.ndarray) -> np.ndarray:
    """Computes on the batch's device; each device may have a thread of its own.

    Args:
      batch: of clips of the plan.
      clips_BFHWC: uint8 pixels of the batch's size and buffer.
    """

  def records(
    self, batch: batches_lib.Batch, encoded_BFHWC: np.ndarray | None
  ) -> Iterator[schema.Record | None]:
    """Yields the record of each clip in order; None if it is not finite.

    Args:
      batch: the next of those announced; in one thread for all devices.
      encoded_BFHWC: what `encode` returned for it; None where no clip was decoded,
        which makes no records.
    """


class Pixels:
  """Keeps clips as they are, for training the autoencoder."""

  def __init__(self, plan: plan_lib.Plan, rows: rows_lib.Rows):
    """Reads captions from the rows."""
    self.metadata = schema.Metadata(kind="pixels", settings=_SETTINGS)
    self.rules = batches_lib.Rules(grid=0, mixes_lengths=False)
    self._plan, self._rows = plan, rows

  def begin(self, batches: Sequence[batches_lib.Batch]) -> None:
    """Needs nothing."""

  def encode(self, batch: batches_lib.Batch, clips_BFHWC: np.ndarray) -> np.ndarray:
    """Keeps them."""
    return clips_BFHWC

  def records(
    self, batch: batches_lib.Batch, encoded_BFHWC: np.ndarray | None
  ) -> Iterator[schema.Record | None]:
    """See `Maker`."""
    if encoded_BFHWC is None:
      return
    plan = self._plan
    for row, i in enumerate(batch.indices):
      yield schema.PixelRecord(
        key=plan.key[i].decode(),
        clip=encoded_BFHWC[row],
        caption=self._rows.captions(int(plan.row[i]))[0][0],
        frames_per_second=float(plan.frames_per_second[i]),
        start_seconds=float(plan.start_seconds[i]),
      )


class Latents:
  """Encodes clips and captions, for training the diffusion transformer.

  Attributes:
    captions: the encoder of text and what it has counted.
    tiler: the encoder of clips and what it has measured.
  """

  def __init__(
    self,
    plan: plan_lib.Plan,
    rows: rows_lib.Rows,
    autoencoder: Frozen,
    captions: captions_lib.Captions,
    media: config_lib.Media,
    *,
    autoencoder_path: str,
    text_path: str,
    devices: int = 1,
    hosts: int = 1,
  ):
    """Takes the encoders; the paths are only for the metadata.

    Raises:
      ValueError: the empty caption has no finite encoding.
    """
    text = captions.encoder
    empty = text.encode([""])[0]
    if not np.isfinite(empty).all():
      raise ValueError(
        f"{text_path}: float16 cannot hold the text encoder's values of the"
        " empty caption. Set config.text.dtype='float32', or name other weights."
      )
    self._plan, self._rows = plan, rows
    self._grid = config_lib.Grid(space=autoencoder.space, time=autoencoder.time)
    self.tiler = tiles.Tiler(autoencoder, media.tile_pixels)
    self.captions = captions
    largest = int((plan.height.astype(np.int64) * plan.width).max(initial=0))
    longest = media.max_pixels * media.max_frames
    self.rules = batches_lib.Rules(
      grid=autoencoder.space,
      mixes_lengths=autoencoder.causal,
      devices=devices,
      hosts=hosts,
      most_pixels=max(longest, 1 << 24),
    )
    self.metadata = schema.Metadata(
      kind="latents",
      settings=_SETTINGS + self.tiler.settings(largest),
      autoencoder=autoencoder.fingerprint,
      autoencoder_path=autoencoder_path,
      channels=autoencoder.channels,
      space=autoencoder.space,
      time=autoencoder.time,
      text=text.fingerprint,
      text_path=text_path,
      text_width=text.width,
      several=plan.several,
      empty=empty,
    )

  def begin(self, batches: Sequence[batches_lib.Batch]) -> None:
    """Counts how often each caption is needed."""
    parts = [batch.indices for batch in batches]
    self._order = np.concatenate(parts) if parts else np.empty(0, np.int64)
    self._place = 0
    self.captions.expect(t for i in self._order for t in self._texts(i)[0])

  def encode(self, batch: batches_lib.Batch, clips_BFHWC: np.ndarray) -> np.ndarray:
    """See `Maker`."""
    sizes_B2 = None
    if not batch.is_exact:
      sizes_B2 = np.tile(np.array(batch.buffer[1:]), (batch.size, 1))
      for row, i in enumerate(batch.indices):
        sizes_B2[row] = self._plan.shape(i)[1:]
    return self.tiler.encode(clips_BFHWC, sizes_B2, batch.device)

  def records(
    self, batch: batches_lib.Batch, encoded_BFHWC: np.ndarray | None
  ) -> Iterator[schema.Record | None]:
    """See `Maker`."""
    self._place += len(batch.indices)
    if encoded_BFHWC is None:
      return
    several = [self._texts(i) for i in batch.indices]
    ahead = self._order[self._place : self._place + _CAPTIONS_AHEAD]
    encodings = iter(
      self.captions.encode(
        [text for texts, _ in several for text in texts],
        (text for i in ahead for text in self._texts(i)[0]),
      )
    )
    for row, i in enumerate(batch.indices):
      texts, weights = several[row]
      encoded = [next(encodings) for _ in texts]
      yield self._record(int(i), encoded_BFHWC[row], texts, weights, encoded)

  def _record(
    self,
    i: int,
    latent_FHWC: np.ndarray,
    texts: list[str],
    weights: list[float],
    encoded: list[np.ndarray],
  ) -> schema.Record | None:
    plan = self._plan
    frames, height, width = plan.shape(i)
    t, h, w = self._grid.latent(height, width, frames)
    inside = latent_FHWC[:t, :h, :w]
    with np.errstate(over="ignore"):
      inside = inside.astype(np.float16)
    if not all(np.isfinite(array).all() for array in (inside, *encoded)):
      return None
    record = schema.LatentRecord(
      key=plan.key[i].decode(),
      latent=inside,
      text=encoded[0],
      caption=texts[0],
      frames_per_second=float(plan.frames_per_second[i]),
      frames=frames,
      height=height,
      width=width,
      start_seconds=float(plan.start_seconds[i]),
    )
    return record.with_captions(texts[1:], encoded[1:], weights)

  def _texts(self, i: Any) -> tuple[list[str], list[float]]:
    return self._rows.captions(int(self._plan.row[i]))
