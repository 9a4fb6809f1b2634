"""Clips become records, in a pipeline of threads:

    decode (worker processes, ahead) ── encode, a thread for each device ── write

Records are written under their clips' keys, so that a killed run continues where it was
and only added files cost anything. What another maker, or other captions, left in the
data set is refused, or replaced with `overwrite`.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
import contextlib
import functools
import os
import pathlib
import shutil
import threading

import numpy as np

from video_dit import config as config_lib
from video_dit.data import disk as disk_lib
from video_dit.data import existing, schema
from video_dit.data import writer as writer_lib
from video_dit.preprocess import ahead, makers, progress, side_by_side, workers
from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import hosts as hosts_lib
from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import rows as rows_lib

_EXAMPLES = 3
_SAY_SECONDS = 0.3  # after Ctrl-C
_BATCHES_AHEAD = 2  # encoded, not yet written
# Of batches that wait for their devices, so that one which compiles does not stop others.
_WAITING_PIXELS = 1 << 28

# A batch, the records of its clips, and those that could not be decoded, as `ahead` has
# them.
Encoded = tuple[batches_lib.Batch, list[schema.Record | None], list[tuple[int, str, str]]]


def stale(
  folder: str | os.PathLike[str],
  maker: makers.Maker,
  plan: plan_lib.Plan,
  *,
  overwrite: bool = False,
) -> Collection[str] | None:
  """Compares the existing data set with the plan; changes nothing.

  Returns:
    Keys of the records that are to be removed; None where all are, being another
    maker's. Nothing is without `overwrite`.

  Raises:
    ValueError: without `overwrite` there would be some.
  """
  folder = pathlib.Path(folder)
  try:
    existing.check(folder, maker.metadata)
  except ValueError as error:
    if overwrite:
      return None
    raise ValueError(f"{error} Or pass --overwrite to replace what is there.") from None
  _, found = plan_lib.compare(plan, folder)
  if found and not overwrite:
    examples = [f"clip {key} {why}" for key, why in found.items()][:_EXAMPLES]
    more = f" and {len(found) - _EXAMPLES} more" if len(found) > _EXAMPLES else ""
    raise ValueError(
      f"{folder}: {len(found)} records of this data set differ from what this run"
      f" would write: {'; '.join(examples)}{more}. Restore the input and the"
      " settings, or choose another --output. Or pass --overwrite: these are removed, and"
      " remade if still wanted."
    )
  return found.keys()


def make(
  folder: str | os.PathLike[str],
  maker: makers.Maker,
  plan: plan_lib.Plan,
  rows: rows_lib.Rows,
  facts: facts_lib.Facts,
  pool: workers.Pool,
  media: config_lib.Media,
  *,
  removed: Collection[str] | None = (),
  disk: disk_lib.Disk = disk_lib.LOCAL,
  team: hosts_lib.Team | None = None,
) -> progress.Made:
  """Completes a data set according to the plan; does nothing if it is complete.

  Args:
    folder: of the data set.
    maker: of its records.
    plan: the clips that it should hold.
    rows: of the table that the plan is of.
    facts: records undecodable files.
    pool: workers that run `examine.work`.
    media: settings of the decoder, and records of a shard.
    removed: what of the data set is removed first, as `stale` says.
    disk: where files are to appear.
    team: of hosts that make it together, of which this is the first; None: alone.
  """
  folder = pathlib.Path(folder)
  hosts = team.hosts if team else 1
  if removed is None:
    _remove(folder, disk)
  with writer_lib.ShardWriter(
    folder,
    maker.metadata,
    shard_records=media.shard_records,
    hosts=hosts,
    disk=disk,
  ) as writer:
    writer.drop(removed or ())
    present, _ = plan_lib.compare(plan, folder)
    made = progress.Made(reused=int(present.sum()))
    wanted = ~present
    word = None
    if team is not None:
      if wanted.any():
        writer.reopen()
      word, wanted = team.announce(plan, wanted)
    batches = batches_lib.plan(plan, wanted, maker.rules)
    if word is not None:
      batches = word.share(batches, 0)
    batches = batches_lib.without(batches, present)
    failures = add(writer, maker, plan, batches, rows, pool, media, made)
    made.count(maker)
    writer.close()
    if team is not None and word is not None:
      if wanted.any():
        others, more = team.gather(word)
        failures += more
        for other in others:
          made.add(other)
        disk.refresh()
      team.finish(word)
    _keep_failures(facts, plan, failures, media)
    if made.written or made.reused:
      writer.finish()
  return made


def join(
  folder: str | os.PathLike[str],
  maker: makers.Maker,
  plan: plan_lib.Plan,
  rows: rows_lib.Rows,
  pool: workers.Pool,
  media: config_lib.Media,
  team: hosts_lib.Team,
  word: hosts_lib.Word,
) -> progress.Made:
  """Makes this host's share of what the first host announced; arguments as `make`'s."""
  wanted = team.wanted(word, plan)
  with writer_lib.ShardWriter(
    folder,
    maker.metadata,
    shard_records=media.shard_records,
    host=team.host,
    hosts=team.hosts,
    disk=team.disk,
  ) as writer:
    present, _ = plan_lib.compare(plan, pathlib.Path(folder))
    made = progress.Made()
    batches = batches_lib.plan(plan, wanted, maker.rules)
    batches = word.share(batches, team.host)
    batches = batches_lib.without(batches, present)
    failures = add(writer, maker, plan, batches, rows, pool, media, made)
  made.count(maker)
  team.done(word, made, failures)
  return made


def add(
  writer: writer_lib.ShardWriter,
  maker: makers.Maker,
  plan: plan_lib.Plan,
  batches: Sequence[batches_lib.Batch],
  rows: rows_lib.Rows,
  pool: workers.Pool,
  media: config_lib.Media,
  made: progress.Made,
) -> list[tuple[str, str, str]]:
  """Decodes, encodes and writes batches.

  Args:
    made: is updated.
    The others: as in `make`.

  Returns:
    Key, reason and message of each clip that could not be decoded after all.
  """
  if not batches:
    return []
  devices = maker.rules.devices
  batches = batches_lib.over_devices(batches, devices)
  maker.begin(batches)
  longest = media.max_pixels * media.max_frames
  largest = max(batch.pixels for batch in batches)
  limit = largest * devices + longest * media.workers
  left = threading.Event()
  decoded = ahead.decode(plan, batches, rows, media, pool, limit, left)
  shared = side_by_side.Devices(
    functools.partial(_work, maker),
    lambda found: found[0].device,
    np.bincount([batch.device for batch in batches], minlength=devices).tolist(),
    lambda found: found[0].pixels,
    # One device finds the next batch with those who bring it.
    max(_WAITING_PIXELS, largest * devices) if devices > 1 else 0,
    left,
  )
  failures: list[tuple[str, str, str]] = []
  with (
    progress.Bar(writer.metadata.kind, plan, batches, made) as bar,
    _saying(bar, "stopping when what is being encoded is done") as say_soon,
    ahead.in_thread(decoded, left.set) as clips,
    ahead.in_thread(
      _records(shared.run(clips, made.wait), maker), left.set, _BATCHES_AHEAD
    ) as encoded,
  ):
    try:
      for batch, records, failed in encoded:
        bad = {i: (reason, message) for i, reason, message in failed}
        for i, record in zip(batch.indices.tolist(), records, strict=True):
          if i not in bad and record is None:
            bad[i] = "not_finite", "the encoder produced values that float16 cannot hold"
          if i not in bad:
            assert record is not None
            writer.write(record, "validation" if plan.is_validation[i] else "train")
        failures += [(plan.key[i].decode(), *why) for i, why in bad.items()]
        bar.wrote(batch, bad)
    except KeyboardInterrupt:
      say_soon()
      raise
  return failures


@contextlib.contextmanager
def _saying(bar: progress.Bar, text: str) -> Iterator[Callable[[], None]]:
  """Yields what says a text soon, unless the block is left before."""
  timer = threading.Timer(_SAY_SECONDS, bar.say, [text])
  try:
    yield timer.start
  finally:
    timer.cancel()


def _keep_failures(
  facts: facts_lib.Facts,
  plan: plan_lib.Plan,
  failures: Sequence[hosts_lib.Failure],
  media: config_lib.Media,
) -> None:
  why = {key.encode(): (reason, message) for key, reason, message in failures}
  for i in np.flatnonzero(np.isin(plan.key, np.array(list(why), "S32"))):
    reason, message = why[plan.key[i]]
    seconds, line = media.timeout_seconds, int(plan.line[i])
    facts.fail(plan.key[i].decode(), reason, message, seconds=seconds, line=line)


def _work(
  maker: makers.Maker, found: ahead.Decoded
) -> tuple[batches_lib.Batch, np.ndarray | None, list[tuple[int, str, str]]]:
  """Encodes a batch, unless none of its clips could be decoded."""
  batch, clips_BFHWC, failed = found
  if len({i for i, _, _ in failed}) == len(batch.indices):
    return batch, None, failed
  return batch, maker.encode(batch, clips_BFHWC), failed


def _records(done: Generator, maker: makers.Maker) -> Iterator[Encoded]:
  """Makes the records of each batch; those of clips that did not decode are None."""
  with contextlib.closing(done):
    for batch, encoded_BFHWC, failed in done:
      records = list(maker.records(batch, encoded_BFHWC))
      yield batch, records or [None] * len(batch.indices), failed


def _remove(folder: pathlib.Path, disk: disk_lib.Disk) -> None:
  # Last what says whose records these are, in case that this is interrupted.
  found = sorted(folder.rglob("*"), key=lambda path: path.name == schema.PROVENANCE)
  for path in found:
    if path.is_file():
      disk.remove(path)
  shutil.rmtree(folder)
