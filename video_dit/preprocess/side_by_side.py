"""Several devices work side by side, a thread for each; results come in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures
import threading
import time
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Items that one of several devices has: one at work, one that waits. A single device
# finds the next one with those who bring it.
_EACH = 2


def run(
  items: Iterator[T],
  work: Callable[[T], R],
  device: Callable[[T], int],
  count: int,
  waited: Callable[[float], None],
) -> Iterator[R]:
  """Yields the results of work on items, in the items' order.

  Args:
    items: best in the order in which they would be done: each is held back until its
      device has room for it.
    work: is called in the thread of the item's device.
    device: which one an item is for, of 0 .. count - 1.
    count: of the devices.
    waited: is told the seconds in which devices had nothing to do because an item was
      not there yet, divided by their number. What passes before a device's first item
      is left out: there is nothing to do before it.
  """
  each = _EACH if count > 1 else 1
  lock = threading.Lock()
  left = [0] * count
  idle_since: list[float | None] = [None] * count

  def timed(item: T, number: int) -> R:
    try:
      return work(item)
    finally:
      with lock:
        left[number] -= 1
        if not left[number]:
          idle_since[number] = time.monotonic()

  threads = [futures.ThreadPoolExecutor(1, f"device{i}") for i in range(count)]
  pending: deque[tuple[int, futures.Future[R]]] = deque()
  try:
    while True:
      begun = time.monotonic()
      item = next(items, None)
      now = time.monotonic()
      with lock:
        idle = [now - max(begun, since) for since in idle_since if since is not None]
      waited(sum(idle) / count)
      if item is None:
        break
      number = device(item)
      mine = [future for i, future in pending if i == number and not future.done()]
      futures.wait(mine[: len(mine) + 1 - each])
      with lock:
        left[number] += 1
        idle_since[number] = None
      pending.append((number, threads[number].submit(timed, item, number)))
      del item  # Else what it holds stays until the next one is there.
      while pending and pending[0][1].done():
        yield pending.popleft()[1].result()
    while pending:
      yield pending.popleft()[1].result()
  finally:
    for thread in threads:
      thread.shutdown(wait=False, cancel_futures=True)
    for thread in threads:
      thread.shutdown(wait=True)
