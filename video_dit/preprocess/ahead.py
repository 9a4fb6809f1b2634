"""Clips are decoded by worker processes while the devices encode others."""

from collections.abc import Callable, Generator, Iterator, Sequence
import contextlib
import os
import queue
import threading
from typing import Any, TypeVar

import numpy as np

from video_dit import config as config_lib
from video_dit.preprocess import batches as batches_lib
from video_dit.preprocess import examine, workers
from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import rows as rows_lib

T = TypeVar("T")
_POLL_SECONDS = 0.2

# A batch, its pixels `(B, F, H, W, 3)` of the batch's size and buffer, and (index,
# reason, message) of the clips that could not be decoded.
Decoded = tuple[batches_lib.Batch, np.ndarray, list[tuple[int, str, str]]]


def decode(
  plan: plan_lib.Plan,
  batches: Sequence[batches_lib.Batch],
  rows: rows_lib.Rows,
  media: config_lib.Media,
  pool: workers.Pool,
  limit: int,
  stopped: threading.Event,
) -> Iterator[Decoded]:
  """Yields the batches with their pixels, in order.

  Args:
    plan: of all clips.
    batches: what is decoded.
    rows: of the table of clips.
    media: settings of the decoder.
    pool: of workers that run `examine.work`.
    limit: pixels decoded ahead.
    stopped: when set, the workers soon stop.
  """
  jobs = (
    (_pixels(plan, run), _job(plan, run, rows, media))
    for batch in batches
    for run in _runs(plan, batch.indices)
  )
  results = pool.run(jobs, limit, stopped)
  for batch in batches:
    clips_BFHWC = np.zeros((batch.size, *batch.buffer, 3), np.uint8)
    failed, place = [], 0
    for run in _runs(plan, batch.indices):
      _, result = next(results)
      if isinstance(result, workers.Failure):
        failed += [(int(i), result.reason, result.message) for i in run]
      elif result[1] is None:
        failed += [(int(i), result[0]["reason"], result[0]["message"]) for i in run]
      else:
        _, height, width = plan.shape(run[0])
        ends = np.cumsum(plan.frames[run])[:-1]
        for row, clip_FHWC in enumerate(np.split(result[1], ends), place):
          clips_BFHWC[row, : len(clip_FHWC), :height, :width] = clip_FHWC
      place += len(run)
    yield batch, clips_BFHWC, failed


def _pixels(plan: plan_lib.Plan, run: np.ndarray) -> int:
  _, height, width = plan.shape(run[0])
  return int(plan.frames[run].sum()) * height * width


def _runs(plan: plan_lib.Plan, indices: np.ndarray) -> list[np.ndarray]:
  """Parts of `indices` whose clips follow each other in one file, decoded at once."""
  first = plan.first_frame[indices]
  breaks = first[1:] != first[:-1] + plan.frames[indices[:-1]]
  for kind in (plan.line, plan.height, plan.width):
    breaks |= kind[indices[1:]] != kind[indices[:-1]]
  return np.split(indices, np.flatnonzero(breaks) + 1)


def _job(
  plan: plan_lib.Plan, run: np.ndarray, rows: rows_lib.Rows, media: config_lib.Media
) -> examine.Decode:
  i = run[0]
  row = rows.row(int(plan.row[i]))
  _, height, width = plan.shape(i)
  return examine.Decode(
    file=os.fsdecode(row["file"]),
    record=row["record"],
    start_seconds=row["line_start_seconds"],
    end_seconds=row["line_end_seconds"],
    frames_per_second=float(plan.frames_per_second[i]),
    first_frame=int(plan.first_frame[i]),
    frames=int(plan.frames[run].sum()),
    size=(height, width),
    media=media,
    sha256=row.get("sha256") or "",
    stamp=row.get("stamp") or "",
  )


@contextlib.contextmanager
def in_thread(
  items: Iterator[T], stop: Callable[[], None], depth: int = 1
) -> Iterator[Iterator[T]]:
  """Runs an iterator in a thread, `depth` items ahead; its errors come out here.

  Args:
    items: what is iterated.
    stop: makes `items` end soon; called when the block is left.
    depth: number of items that may wait.
  """
  waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
  left = threading.Event()

  def put(item: tuple[str, Any]) -> bool:
    while not left.is_set():
      with contextlib.suppress(queue.Full):
        waiting.put(item, timeout=_POLL_SECONDS)
        return True
    return False

  def fill() -> None:
    try:
      for item in items:
        if not put(("item", item)):
          return
        del item  # Else it stays until the next one is there.
      put(("end", None))
    except BaseException as error:
      put(("error", error))
    finally:
      if isinstance(items, Generator):
        items.close()

  def drain() -> Iterator[T]:
    while True:
      kind, item = waiting.get()
      if kind == "error":
        raise item
      if kind == "end":
        return
      yield item
      del item

  thread = threading.Thread(target=fill, name="decode", daemon=True)
  thread.start()
  try:
    yield drain()
  finally:
    left.set()
    stop()
    thread.join()
