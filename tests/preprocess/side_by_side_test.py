"""Several devices at once: results in order, bounded, and errors that come out."""

import threading
import time
import weakref

import pytest

from video_dit.preprocess import side_by_side


def devices(work, shares, *, size=lambda item: 1, room=100, stopped=None):
  """Of devices that take turns."""
  count = len(shares)
  return side_by_side.Devices(
    work,
    lambda item: item % count,
    shares,
    size,
    room,
    stopped or threading.Event(),
  )


def test_results_come_in_order_from_one_thread_a_device():
  met = threading.Barrier(3)
  names = set()

  def work(item):
    if item < 3:
      met.wait(timeout=60)  # All three are at work at once.
    names.add((item % 3, threading.current_thread().name))
    return item * 10

  done = devices(work, [4, 4, 4]).run(iter(range(12)), lambda _: None)
  assert list(done) == [10 * i for i in range(12)]
  assert names == {(i, f"device{i}") for i in range(3)}


def test_a_busy_device_stops_others_only_where_there_is_no_room():
  go, fetched, done = threading.Event(), [], set()

  def items():
    for i in range(12):
      fetched.append(i)
      yield i

  def work(item):
    if item == 0:
      assert go.wait(timeout=60)
    done.add(item)
    if done >= {1, 3, 5, 7}:
      go.set()  # The other device has gone on; three wait for this one.
    return item

  found = devices(work, [6, 6], room=4).run(items(), lambda _: None)
  assert list(found) == list(range(12))

  go.clear()
  fetched.clear()
  waits = threading.Event()

  def held(item):
    if item == 0:
      assert waits.wait(timeout=60)
      time.sleep(0.2)
      assert len(fetched) == 4  # at work, two that wait, one without room
    return item

  def watched():
    for i in items():
      if i == 3:
        waits.set()
      yield i

  found = devices(held, [8], room=2).run(watched(), lambda _: None)
  assert list(found) == list(range(12))


@pytest.mark.parametrize(
  ("room", "taken"),
  [
    (0, 2),  # at work, and one without room
    (3, 3),  # one of size 3 waits
    (5, 3),  # another of size 3 would be too many
    (6, 4),
    (7, 5),  # one of size 1 has room too
  ],
)
def test_items_wait_as_far_as_their_sizes_have_room(room, taken):
  fetched: list[int] = []

  def items():
    for i in range(9):
      fetched.append(i)
      yield i

  def work(item):
    if item == 0:
      end = time.monotonic() + 60
      while len(fetched) < taken and time.monotonic() < end:
        time.sleep(0.01)
      time.sleep(0.1)
      assert len(fetched) == taken
    return item

  done = devices(work, [9], size=lambda item: 1 if item % 3 == 0 else 3, room=room)
  assert list(done.run(items(), lambda _: None)) == list(range(9))


def test_what_is_worked_on_waits_no_longer():
  fetched: list[int] = []

  def items():
    for i in range(9):
      fetched.append(i)
      yield i

  def work(item):
    # At work, two that wait, and one without room.
    end = time.monotonic() + 60
    while len(fetched) < min(item + 4, 9):
      assert time.monotonic() < end
      time.sleep(0.01)
    return item

  done = devices(work, [9], size=lambda item: 3, room=6)
  assert list(done.run(items(), lambda _: None)) == list(range(9))


def test_what_was_worked_on_is_let_go_before_its_result_is_taken():
  class Item:
    def __init__(self, number):
      self.number = number

    def __mod__(self, count):
      return self.number % count

  second: list[weakref.ref] = []

  def items():
    for i in range(2):
      item = Item(i)
      if i:
        second.append(weakref.ref(item))
      yield item

  def work(item):
    end = time.monotonic() + 60
    while not item.number and not (second and second[0]() is None):
      assert time.monotonic() < end
      time.sleep(0.01)
    return item.number

  assert list(devices(work, [1, 1]).run(items(), lambda _: None)) == [0, 1]


def test_waiting_is_a_mean_over_the_devices():
  left = threading.Semaphore(0)

  def items():
    yield from (0, 1)
    for _ in range(2):
      assert left.acquire(timeout=60)
    time.sleep(0.5)  # in which both have nothing to do
    yield from (2, 3)

  def work(item):
    left.release()
    return item

  waited: list[float] = []
  begun = time.monotonic()
  list(devices(work, [2, 2]).run(items(), waited.append))
  assert 0.2 < sum(waited) <= time.monotonic() - begun


def test_only_waiting_for_items_counts_as_waiting():
  worked = threading.Event()

  def items():
    yield 0
    assert worked.wait(timeout=60)
    time.sleep(0.3)
    yield 1

  def work(item):
    worked.set()
    return item

  waited: list[float] = []
  list(devices(work, [2]).run(items(), waited.append))
  assert sum(waited) > 0.2
  waited.clear()
  for _ in devices(work, [4]).run(iter(range(4)), waited.append):
    time.sleep(0.3)  # The one who takes the results is no decoder.
  assert sum(waited) < 0.3
  # A device that has had its last item waits for none.
  waited.clear()
  worked.clear()
  list(devices(work, [1, 1]).run(items(), waited.append))
  assert sum(waited) == 0


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_ends_all_and_comes_out(count):
  begun = []

  def work(item):
    begun.append(item)
    if item == 1:
      raise ValueError("no room")
    return item

  done = devices(work, [100] * count, room=3).run(iter(range(100)), lambda _: None)
  with pytest.raises(ValueError, match="no room"):
    list(done)
  assert len(begun) < 10


def test_an_error_is_not_kept_until_the_others_are_done():
  """Of hours of their work, of which the failing device would do no more."""
  both, failed, begun = threading.Barrier(2), threading.Event(), []

  def work(item):
    begun.append(item)
    both.wait(timeout=60)
    if item % 2:
      failed.set()
      raise ValueError("no room")
    assert failed.wait(timeout=60)
    time.sleep(0.2)
    return item

  with pytest.raises(ValueError, match="no room"):
    list(devices(work, [50, 50]).run(iter(range(100)), lambda _: None))
  assert sorted(begun) == [0, 1]


def test_no_work_begins_once_all_are_to_stop():
  stopped, begun = threading.Event(), []

  def work(item):
    begun.append(item)
    stopped.set()
    return item

  assert len(list(devices(work, [9], stopped=stopped).run(iter(range(9)), print))) <= 1
  assert begun == [0]
