"""Clips become records: pixels as they are, or latents by the frozen encoders.

    plan ── decode (worker processes, ahead) ── encode, a shape at a time ──▶ records

Records are written under their clips' keys, so that a killed run goes on where it was
and added files cost only themselves. What another maker, or other captions, left in the
data set is refused, or made anew with `overwrite`.
"""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
import shutil
from typing import Protocol

import numpy as np
import tqdm

from video_dit import config as config_lib
from video_dit.data import schema
from video_dit.data import writer as writer_lib
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.preprocess import ahead, cuts, workers
from video_dit.preprocess import captions as captions_lib
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import plan as plan_lib

# All else that decides a record is in its key or in the encoders' fingerprints.
_SETTINGS = f"cuts {cuts.VERSION}"
# A batch on one device holds as many pixels as one clip may have, or these.
_LEAST_PIXELS = 1 << 24
_MOST_CLIPS = 16
_CAPTIONS_AHEAD = 256
_EXAMPLES = 3


@dataclasses.dataclass
class Made:
  """What became of the planned clips.

  Attributes:
    written: records of this run.
    reused: records that were there before.
    failed: clips that could not be decoded after all.
    captions_cut: distinct captions of this run longer than `text.max_tokens`.
  """

  written: int = 0
  reused: int = 0
  failed: int = 0
  captions_cut: int = 0


class Maker(Protocol):
  """Makes the records of one kind of data set."""

  metadata: schema.Metadata

  def records(
    self, indices: np.ndarray, clips_BFHWC: np.ndarray
  ) -> Iterator[schema.Record | None]:
    """Yields the record of each index in order; None where it came out not finite.

    Args:
      indices: of clips of the plan.
      clips_BFHWC: uint8 pixels, at least as many clips as indices.
    """


class Pixels:
  """Keeps clips as they are, for training the autoencoder."""

  def __init__(self, plan: plan_lib.Plan, facts: facts_lib.Facts):
    """Reads captions from the facts."""
    self.metadata = schema.Metadata(kind="pixels", settings=_SETTINGS)
    self._plan, self._facts = plan, facts

  def records(
    self, indices: np.ndarray, clips_BFHWC: np.ndarray
  ) -> Iterator[schema.Record | None]:
    """As `Maker` says."""
    plan = self._plan
    for row, i in enumerate(indices):
      yield schema.PixelRecord(
        key=plan.key[i].decode(),
        clip=clips_BFHWC[row],
        caption=self._facts.caption(int(plan.line[i])),
        frames_per_second=float(plan.frames_per_second[i]),
        start_seconds=float(plan.start_seconds[i]),
      )


class Latents:
  """Encodes clips and captions, for training the diffusion transformer."""

  def __init__(
    self,
    plan: plan_lib.Plan,
    facts: facts_lib.Facts,
    autoencoder: Frozen,
    captions: captions_lib.Captions,
    *,
    autoencoder_path: str,
    text_path: str,
  ):
    """Holds the encoders; the paths only go to the metadata."""
    text = captions.encoder
    self._plan, self._facts = plan, facts
    self._autoencoder, self.captions = autoencoder, captions
    self.metadata = schema.Metadata(
      kind="latents",
      settings=_SETTINGS,
      autoencoder=autoencoder.fingerprint,
      autoencoder_path=autoencoder_path,
      channels=autoencoder.channels,
      space=autoencoder.space,
      time=autoencoder.time,
      text=text.fingerprint,
      text_path=text_path,
      text_width=text.width,
      empty=text.encode([""])[0],
    )

  def records(
    self, indices: np.ndarray, clips_BFHWC: np.ndarray
  ) -> Iterator[schema.Record | None]:
    """As `Maker` says."""
    plan = self._plan
    latents = np.asarray(self._autoencoder.encode_batch(clips_BFHWC))
    captions = [self._caption(i) for i in indices]
    soon = range(int(indices[-1]) + 1, min(int(indices[-1]) + _CAPTIONS_AHEAD, len(plan)))
    encodings = self.captions.encode(captions, (self._caption(i) for i in soon))
    for row, i in enumerate(indices):
      with np.errstate(over="ignore"):
        latent_FHWC = latents[row].astype(np.float16)
      frames, height, width = plan.shape(i)
      yield (
        schema.LatentRecord(
          key=plan.key[i].decode(),
          latent=latent_FHWC,
          text=encodings[row],
          caption=captions[row],
          frames_per_second=float(plan.frames_per_second[i]),
          frames=frames,
          height=height,
          width=width,
          start_seconds=float(plan.start_seconds[i]),
        )
        if np.isfinite(latent_FHWC).all()
        else None
      )

  def _caption(self, i: int) -> str:
    return self._facts.caption(int(self._plan.line[i]))


def make(
  folder: str | os.PathLike[str],
  maker: Maker,
  plan: plan_lib.Plan,
  facts: facts_lib.Facts,
  pool: workers.Pool,
  media: config_lib.Media,
  *,
  overwrite: bool = False,
  devices: int = 1,
) -> Made:
  """Brings a data set up to the plan; does nothing where it is.

  Args:
    folder: of the data set.
    maker: of its records.
    plan: the clips that it is to hold.
    facts: takes down what cannot be decoded.
    pool: of workers that run `examine.work`.
    media: settings of the decoder, and records of a shard.
    overwrite: make anew a data set that other settings or captions left.
    devices: that a batch is split over.

  Raises:
    ValueError: the data set there is of other settings or captions.
  """
  folder = pathlib.Path(folder)
  with _open(folder, maker.metadata, plan, media, overwrite) as writer:
    present, _ = plan_lib.compare(plan, folder)
    made = Made(reused=int(present.sum()))
    if not present.all():
      _add(writer, maker, plan, ~present, facts, pool, media, devices, made)
    if made.written or made.reused:
      writer.finish()
  return made


def _add(
  writer: writer_lib.ShardWriter,
  maker: Maker,
  plan: plan_lib.Plan,
  wanted: np.ndarray,
  facts: facts_lib.Facts,
  pool: workers.Pool,
  media: config_lib.Media,
  devices: int,
  made: Made,
) -> None:
  longest = media.max_pixels * media.max_frames
  most_pixels = max(longest, _LEAST_PIXELS) * devices
  most_clips = max(_MOST_CLIPS, devices)
  batches = plan_lib.batches(plan, wanted, most_pixels, most_clips)
  limit = most_pixels + longest * media.workers
  decoded = ahead.decode(plan, batches, facts.path, media, pool, limit)
  bar = tqdm.tqdm(
    desc=writer.metadata.kind,
    total=len(plan),
    initial=made.reused,
    unit="clip",
    mininterval=0.5,
  )
  with bar, ahead.in_thread(decoded, pool.stop) as stream:
    for indices, clips_BFHWC, failed in stream:
      bad = {i for i, _, _ in failed}
      for i, reason, message in failed:
        facts.fail(plan.key[i].decode(), reason, message, media.timeout_seconds)
      records = maker.records(indices, clips_BFHWC) if len(bad) < len(indices) else ()
      for i, record in zip(indices, records, strict=False):
        if i in bad:
          continue
        if record is None:
          message = "the encoder gave values that float16 cannot hold"
          facts.fail(plan.key[i].decode(), "not_finite", message, media.timeout_seconds)
          bad.add(i)
          continue
        writer.write(record, "validation" if plan.is_validation[i] else "train")
      made.failed += len(bad)
      made.written += len(indices) - len(bad)
      bar.update(len(indices))


def _open(
  folder: pathlib.Path,
  metadata: schema.Metadata,
  plan: plan_lib.Plan,
  media: config_lib.Media,
  overwrite: bool,
) -> writer_lib.ShardWriter:
  """Opens the data set; one that is not of this plan is refused or removed."""
  _, stale = plan_lib.compare(plan, folder)
  try:
    if stale:
      more = f" and {len(stale) - _EXAMPLES} more" if len(stale) > _EXAMPLES else ""
      raise ValueError(
        f"{folder}: {len(stale)} records of the set here are not what this run would"
        f" write: {'; '.join(stale[:_EXAMPLES])}{more}."
      )
    return writer_lib.ShardWriter(folder, metadata, shard_records=media.shard_records)
  except ValueError as error:
    if not overwrite:
      raise ValueError(
        f"{error} Or pass --overwrite: what is there is removed and made anew."
      ) from None
  shutil.rmtree(folder)
  return writer_lib.ShardWriter(folder, metadata, shard_records=media.shard_records)
