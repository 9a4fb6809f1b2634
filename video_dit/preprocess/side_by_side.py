"""Several devices work side by side, a thread for each; results come in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
import dataclasses
import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.2


@dataclasses.dataclass
class _Place(Generic[T, R]):
  """An item, and then what became of it."""

  item: T | None
  size: int
  result: R | None = None
  error: BaseException | None = None
  is_done: bool = False


class Devices(Generic[T, R]):
  """Devices that share a list of items, each in a daemon thread of its own.

  Args:
    work: is called in the thread of an item's device.
    device: which one an item is for, of 0, 1, ...
    shares: items that each device will get.
    size: of an item, in any unit.
    room: of items that wait for their devices. An item waits in any case where its
      device has nothing to do.
    stopped: when set, no more work begins.
  """

  def __init__(
    self,
    work: Callable[[T], R],
    device: Callable[[T], int],
    shares: Sequence[int],
    size: Callable[[T], int],
    room: int,
    stopped: threading.Event,
  ):
    self._work, self._device, self._size = work, device, size
    self._room, self._stopped = room, stopped
    self._changed = threading.Condition()
    self._queues: list[deque[_Place[T, R]]] = [deque() for _ in shares]
    self._left = list(shares)
    self._at_work = [False] * len(shares)
    self._idle_since: list[float | None] = [None] * len(shares)
    self._waiting = 0
    self._closed = False
    self._error: BaseException | None = None

  @property
  def _ends(self) -> bool:
    """Whether no more work is to begin."""
    return self._closed or self._error is not None or self._stopped.is_set()

  def run(
    self, items: Iterator[T], waited: Callable[[float], None]
  ) -> Generator[R, None, None]:
    """Yields the results of work on items, in the items' order.

    An error of one device is raised as soon as the others are done with the items that
    they have begun; what comes before in order is yielded first, as far as it is done.

    Args:
      items: best in the order in which they would be done.
      waited: is told the seconds in which devices had nothing to do because an item was
        not there yet, divided by their number. What passes before a device's first item
        and after its last is left out.
    """
    threads = [
      threading.Thread(target=self._serve, args=(i,), name=f"device{i}", daemon=True)
      for i in range(len(self._queues))
    ]
    for thread in threads:
      thread.start()
    pending: deque[_Place[T, R]] = deque()
    try:
      while True:
        begun = time.monotonic()
        item = next(items, None)
        waited(self._idle(begun, time.monotonic()))
        if item is None or not self._admit(item, pending):
          break
        del item
        while pending and pending[0].is_done:
          yield _result(pending.popleft())
      while pending:
        self._until(lambda: pending[0].is_done)
        if not pending[0].is_done:
          break
        yield _result(pending.popleft())
      if self._error is not None:
        raise self._error
    finally:
      with self._changed:
        self._closed = True
        self._changed.notify_all()
      for thread in threads:
        thread.join()

  def _admit(self, item: T, pending: deque[_Place[T, R]]) -> bool:
    """Gives an item to its device when there is room; False: no more work begins."""
    number, place = self._device(item), _Place[T, R](item, self._size(item))

    def has_room() -> bool:
      idle = not self._at_work[number] and not self._queues[number]
      return idle or self._waiting + place.size <= self._room

    self._until(has_room)
    with self._changed:
      if self._ends:
        return False
      self._queues[number].append(place)
      self._left[number] -= 1
      self._waiting += place.size
      self._idle_since[number] = None
      self._changed.notify_all()
    pending.append(place)
    return True

  def _until(self, what: Callable[[], bool]) -> None:
    """Waits until something is true, or no more work is to begin."""
    with self._changed:
      while not what() and not self._ends:
        self._changed.wait(_POLL_SECONDS)

  def _idle(self, begun: float, now: float) -> float:
    with self._changed:
      since = [s for s, left in zip(self._idle_since, self._left, strict=True) if left]
      idle = sum(now - max(begun, s) for s in since if s is not None)
    return idle / len(self._queues)

  def _serve(self, number: int) -> None:
    """The thread of one device."""
    queue = self._queues[number]
    while True:
      with self._changed:
        while not (queue or self._ends):
          self._changed.wait(_POLL_SECONDS)
        if self._ends:
          return
        place = queue.popleft()
        self._waiting -= place.size
        self._at_work[number] = True
        self._changed.notify_all()
      try:
        assert place.item is not None
        place.result = self._work(place.item)
      except BaseException as error:
        place.error = error
      place.item = None
      with self._changed:
        self._error = self._error or place.error
        place.is_done = True
        self._at_work[number] = False
        self._idle_since[number] = None if queue else time.monotonic()
        self._changed.notify_all()
      del place


def _result(place: _Place[T, R]) -> R:
  if place.error is not None:
    raise place.error
  return place.result  # type: ignore[return-value]
