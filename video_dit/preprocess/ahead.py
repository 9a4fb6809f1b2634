"""Clips are decoded by worker processes while the devices encode others."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import math
import queue
import threading
from typing import Any, TypeVar

import einops
import numpy as np

from video_dit import config as config_lib
from video_dit.preprocess import examine, workers
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import plan as plan_lib

T = TypeVar("T")
_POLL_SECONDS = 0.2

# Indices of clips, their pixels `(B, F, H, W, 3)` padded to the batch's size, and
# (index, reason, message) of those that could not be decoded.
Decoded = tuple[np.ndarray, np.ndarray, list[tuple[int, str, str]]]


def decode(
  plan: plan_lib.Plan,
  batches: Iterable[tuple[np.ndarray, int]],
  facts_path: str,
  media: config_lib.Media,
  pool: workers.Pool,
  limit: int,
) -> Iterator[Decoded]:
  """Yields the batches with their pixels, in order.

  Args:
    plan: of all clips.
    batches: indices of clips of one shape, and the size to pad them to.
    facts_path: where the lines of the input are.
    media: settings of the decoder.
    pool: of workers that run `examine.work`.
    limit: pixels decoded ahead.
  """
  batches = list(batches)
  # This runs in a thread, and a connection belongs to one thread.
  with facts_lib.Facts(facts_path) as facts:
    jobs = (
      (len(run) * math.prod(plan.shape(run[0])), _job(plan, run, facts, media))
      for indices, _ in batches
      for run in _runs(plan, indices)
    )
    results = pool.run(jobs, limit)
    for indices, size in batches:
      clips_BFHWC = np.zeros((size, *plan.shape(indices[0]), 3), np.uint8)
      failed, row = [], 0
      for run in _runs(plan, indices):
        _, result = next(results)
        if isinstance(result, workers.Failure):
          failed += [(int(i), result.reason, result.message) for i in run]
        elif result[1] is None:
          failed += [(int(i), result[0]["reason"], result[0]["message"]) for i in run]
        else:
          clips_BFHWC[row : row + len(run)] = einops.rearrange(
            result[1], "(b f) h w c -> b f h w c", b=len(run)
          )
        row += len(run)
      yield indices, clips_BFHWC, failed


def _runs(plan: plan_lib.Plan, indices: np.ndarray) -> list[np.ndarray]:
  """Parts of `indices` whose clips follow each other in one file, decoded at once."""
  line, first = plan.line[indices], plan.first_frame[indices]
  follows = first[1:] == first[:-1] + plan.frames[indices[:-1]]
  breaks = np.flatnonzero((line[1:] != line[:-1]) | ~follows) + 1
  return np.split(indices, breaks)


def _job(
  plan: plan_lib.Plan, run: np.ndarray, facts: facts_lib.Facts, media: config_lib.Media
) -> examine.Decode:
  i = run[0]
  line, _ = facts.line(int(plan.line[i]))
  frames, height, width = plan.shape(i)
  return examine.Decode(
    file=line.file,
    record=line.record,
    start_seconds=line.start_seconds,
    end_seconds=line.end_seconds,
    frames_per_second=float(plan.frames_per_second[i]),
    first_frame=int(plan.first_frame[i]),
    frames=len(run) * frames,
    size=(height, width),
    media=media,
  )


@contextlib.contextmanager
def in_thread(
  items: Iterator[T], stop: Callable[[], None], depth: int = 1
) -> Iterator[Iterator[T]]:
  """Runs an iterator in a thread, `depth` items ahead; its errors come out here.

  Args:
    items: what is iterated.
    stop: makes `items` end soon; called when the block is left.
    depth: items that wait.
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
      put(("end", None))
    except BaseException as error:
      put(("error", error))

  def drain() -> Iterator[T]:
    while True:
      kind, item = waiting.get()
      if kind == "error":
        raise item
      if kind == "end":
        return
      yield item

  thread = threading.Thread(target=fill, name="decode", daemon=True)
  thread.start()
  try:
    yield drain()
  finally:
    left.set()
    stop()
    thread.join()
