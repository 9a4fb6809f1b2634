"""Several devices at once: results in order, bounded, and errors that come out."""

import threading
import time

import pytest

from video_dit.preprocess import side_by_side


def test_results_come_in_order_from_as_many_threads_as_devices():
  met = threading.Barrier(3)
  names = set()

  def work(item):
    if item < 3:
      met.wait(timeout=60)  # All three are at work at once.
    names.add((item % 3, threading.current_thread().name))
    return item * 10

  items = iter(range(12))
  done = side_by_side.run(items, work, lambda item: item % 3, 3, lambda _: None)
  assert list(done) == [10 * i for i in range(12)]
  assert len(names) == 3  # Each device has one thread of its own.


def test_what_a_slow_device_has_no_room_for_is_not_fetched():
  go, fetched = threading.Event(), []

  def items():
    for i in range(8):
      fetched.append(i)
      yield i

  def work(item):
    go.wait(timeout=60)
    return item

  done = side_by_side.run(items(), work, lambda item: item % 2, 2, lambda _: None)
  thread = threading.Thread(target=lambda: found.extend(done))
  found: list[int] = []
  thread.start()
  while len(fetched) < 5:
    time.sleep(0.01)
  time.sleep(0.1)
  # Of each device one at work and one that waits; the fifth has been fetched in vain.
  assert fetched == [0, 1, 2, 3, 4] and not found
  go.set()
  thread.join()
  assert found == list(range(8))


def test_only_waiting_for_items_counts_as_waiting():
  worked = threading.Event()

  def items():
    yield 0
    worked.wait(timeout=60)
    time.sleep(0.3)
    yield 1

  def work(item):
    worked.set()
    return item

  waited: list[float] = []
  list(side_by_side.run(items(), work, lambda _: 0, 1, waited.append))
  assert sum(waited) > 0.2
  waited.clear()
  for _ in side_by_side.run(iter(range(4)), work, lambda _: 0, 1, waited.append):
    time.sleep(0.3)  # The one who takes the results is no decoder.
  assert sum(waited) < 0.3


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_ends_all_and_comes_out(count):
  begun = []

  def work(item):
    begun.append(item)
    if item == 1:
      raise ValueError("no room")
    return item

  done = side_by_side.run(
    iter(range(100)), work, lambda item: item % count, count, lambda _: None
  )
  with pytest.raises(ValueError, match="no room"):
    list(done)
  assert len(begun) < 10
