"""The pool: in order, bounded, and rid of what hangs or dies."""

import ctypes
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from video_dit.preprocess import workers


def _work(job):
  kind, value = job
  if kind == "hang":
    # Holds the interpreter's lock, as a hung decoder may.
    ctypes.PyDLL(None).sleep(60)
  if kind == "die":
    os._exit(3)
  if kind == "die once" and not os.path.exists(value):
    open(value, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
  if kind == "raise":
    raise RuntimeError("no luck")
  if kind == "blocked":
    return signal.pthread_sigmask(signal.SIG_BLOCK, []), None
  if kind == "sleep":
    time.sleep(value)
  if kind == "array":
    return value, np.full((value, 1000), value, np.uint8)
  return value, None


def test_order_arrays_and_errors():
  kinds = ["value", "array", "raise", "sleep", "array", "value"]
  jobs = [(1, (kind, i)) for i, kind in enumerate(kinds)]
  jobs[3] = (1, ("sleep", 0.2))
  with workers.Pool(_work, 2, timeout_seconds=60) as pool:
    got = list(pool.run(jobs, limit=4))
  assert [job for job, _ in got] == [job for _, job in jobs]
  assert got[0][1] == (0, None)
  np.testing.assert_array_equal(got[4][1][1], np.full((4, 1000), 4, np.uint8))
  assert got[2][1] == workers.Failure("error", "RuntimeError: no luck")


def test_ctrl_c_is_for_the_parent():
  with workers.Pool(_work, 2, timeout_seconds=60) as pool:
    got = list(pool.run([(1, ("blocked", i)) for i in range(2)], limit=4))
  assert [answer for _, answer in got] == [({signal.SIGINT}, None)] * 2
  assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_hangs_or_dies_costs_only_itself():
  jobs = [(1, (kind, i)) for i, kind in enumerate(["value", "hang", "die", "value"])]
  with workers.Pool(_work, 1, timeout_seconds=0.5) as pool:
    got = [result for _, result in pool.run(jobs, limit=9)]
  assert got[0] == (0, None)
  assert got[1].reason == "timeout"
  assert "timeout_seconds" in got[1].message
  assert got[2].reason == "crashed"
  assert "status 3" in got[2].message
  assert got[3] == (3, None)


def test_a_job_whose_process_was_killed_is_done_once_more(tmp_path):
  jobs = [(1, ("value", i)) for i in range(6)]
  jobs[2] = (1, ("die once", str(tmp_path / "2")))
  jobs[3] = (1, ("die", 3))
  with workers.Pool(_work, 2, timeout_seconds=60) as pool:
    got = [result for _, result in pool.run(jobs, limit=3)]
  crash = workers.Failure("crashed", "the decoder process died with status 3, twice")
  assert got.pop(3) == crash
  assert got == [(jobs[i][1][1], None) for i in (0, 1, 2, 4, 5)]


def test_a_process_that_is_killed_while_it_waits_is_replaced():
  with workers.Pool(_work, 2, timeout_seconds=60) as pool:
    for _ in range(3):
      jobs = [(1, ("value", i)) for i in range(4)]
      assert [found for _, found in pool.run(jobs, 9)] == [(i, None) for i in range(4)]
      for worker in pool._workers:
        worker.process.kill()
        worker.process.join()


class _Killed:
  """Stands for `_work`; in other processes, the first few of which it kills."""

  def __init__(self, file, times):
    self._parts = str(file), times

  def __reduce__(self):
    return _kill, self._parts


def _kill(file, times):
  with open(file, "a+") as marks:
    marks.write("x")
    marks.flush()
    marks.seek(0)
    if len(marks.read()) <= times:
      os.kill(os.getpid(), signal.SIGKILL)
  return _work


def test_processes_that_are_killed_at_their_start_are_replaced_a_few_times(tmp_path):
  jobs = [(1, ("value", 1))]
  with workers.Pool(_Killed(tmp_path / "a", 2), 1, timeout_seconds=60) as pool:
    assert [found for _, found in pool.run(jobs, 1)] == [(1, None)]
  with (
    workers.Pool(_Killed(tmp_path / "b", 99), 1, timeout_seconds=60) as pool,
    pytest.raises(RuntimeError, match=r"3 worker processes .* signal 9 .*media.workers"),
  ):
    list(pool.run(jobs, 1))


def test_jobs_are_read_no_further_ahead_than_the_limit():
  read = []

  def jobs():
    for i in range(6):
      read.append(i)
      yield 1, ("value", i)

  with workers.Pool(_work, 1, timeout_seconds=60) as pool:
    for done, _ in enumerate(pool.run(jobs(), limit=2)):
      # One more than the limit is at hand, to know its weight.
      assert len(read) <= done + 3


def test_a_job_heavier_than_the_limit_runs_alone():
  with workers.Pool(_work, 1, timeout_seconds=60) as pool:
    assert len(list(pool.run([(5, ("value", 1)), (5, ("value", 2))], limit=1))) == 2


def test_nothing_starts_for_no_jobs():
  with workers.Pool(_work, 4, timeout_seconds=1) as pool:
    assert list(pool.run([], limit=1)) == []
    assert not pool._workers


@pytest.mark.parametrize("limit", [1, 3])
def test_stop_ends_a_run_and_not_the_next(limit):
  with workers.Pool(_work, 1, timeout_seconds=60) as pool:
    stopped = threading.Event()
    run = pool.run(((1, ("value", i)) for i in range(100)), limit, stopped)
    next(run)
    stopped.set()
    assert len(list(run)) < 100
    jobs = [(1, ("value", -i)) for i in range(4)]
    found = [result for _, result in pool.run(jobs, limit)]
  assert found == [(-i, None) for i in range(4)]


def _breaks_after(num: int):
  yield from ((1, ("sleep", 5)) for _ in range(num))
  raise OSError("the table cannot be read")


def test_a_run_that_is_left_early_leaves_no_job_and_no_answer_to_the_next():
  with workers.Pool(_work, 2, timeout_seconds=60) as pool:
    with pytest.raises(OSError, match="cannot be read"):
      list(pool.run(_breaks_after(2), limit=9))
    assert all(worker.job is None for worker in pool._workers)
    left = pool.run([(1, ("value", 1)), (1, ("sleep", 60)), (1, ("value", 3))], limit=9)
    assert next(left)[1] == (1, None)
    left.close()
    assert all(worker.job is None for worker in pool._workers)
    jobs = [(1, ("value", -i)) for i in range(4)]
    assert [result for _, result in pool.run(jobs, 9)] == [(-i, None) for i in range(4)]


def _run_in_daemon(pipe):
  try:
    list(workers.Pool(_work, 1, timeout_seconds=60).run([(1, ("value", 1))], limit=1))
  except RuntimeError as error:
    pipe.send(str(error))


def test_a_daemon_that_may_start_no_process_says_so():
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe()
  process = context.Process(target=_run_in_daemon, args=(theirs,), daemon=True)
  process.start()
  theirs.close()
  assert "DASK_DISTRIBUTED__WORKER__DAEMON=False" in ours.recv()
  process.join()
