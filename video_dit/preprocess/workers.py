"""Worker processes that can be killed: one bad file never stops the others.

A decoder that hangs cannot be interrupted from within, so every job has a time limit
after which its process is killed and replaced. Each process also sets an alarm that
ends it should its parent be gone. A process may also be killed from outside, by the
kernel where memory is short: so a job whose process died is done once more, alone,
before it counts as crashed, and a process that dies without a job is replaced.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import itertools
import multiprocessing
from multiprocessing import connection as connections
from multiprocessing import resource_tracker
import signal
import threading
import time
from typing import Any

import numpy as np

from video_dit import heap

# A worker imports its libraries before its first job; that does not count for the file.
_START_SECONDS = 300.0
# The parent's limit comes first; the worker's own alarm is for a missing parent.
_ALARM_SECONDS = 10.0
_POLL_SECONDS = 0.5
# Processes in a row, for each of the pool's, that may be killed before they are ready.
_MOST_STARTS = 3

# A worker function's result: a picklable value, and one array or None.
Result = tuple[Any, np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Failure:
  """A job without a result: `timeout`, `crashed` or `error`, and the message."""

  reason: str
  message: str


@dataclasses.dataclass
class _Worker:
  process: Any
  pipe: connections.Connection
  deadline: float
  ready: bool = False
  job: int | None = None


class Pool:
  """Runs one function over jobs in other processes; results come in the jobs' order."""

  def __init__(
    self, function: Callable[[Any], Result], count: int, timeout_seconds: float
  ):
    """Starts nothing yet; processes start with the first job.

    Args:
      function: importable by name; must not import JAX.
      count: processes.
      timeout_seconds: limit on one job.
    """
    self.function = function
    self._count = count
    self._timeout = timeout_seconds
    self._context = multiprocessing.get_context("spawn")
    self._workers: list[_Worker] = []
    self._numbers = itertools.count()  # of jobs; one run never takes another's answer
    self._stillborn = 0  # processes in a row that ended before they were ready

  def __enter__(self) -> "Pool":
    return self

  def __exit__(self, *_: Any) -> None:
    for worker in self._workers:
      _stop(worker)
    self._workers.clear()

  def run(
    self,
    jobs: Iterable[tuple[float, Any]],
    limit: float,
    stopped: threading.Event | None = None,
  ) -> Iterator[tuple[Any, Result | Failure]]:
    """Yields `(job, result)` in order.

    Args:
      jobs: `(weight, job)`; read as far ahead as the limit allows.
      limit: maximum weight started and not yet taken by the caller; one job always runs.
      stopped: when set, from any thread, this run soon ends.
    """
    stopped = stopped or threading.Event()
    queue = iter(jobs)
    order: collections.deque[int] = collections.deque()
    begun: dict[int, tuple[float, Any]] = {}
    done: dict[int, Result | Failure] = {}
    crashed: list[int] = []  # to be done again
    retried: set[int] = set()
    held, waiting = 0.0, next(queue, None)
    try:
      while (order or waiting is not None) and not stopped.is_set():
        while order and order[0] in done:
          first = order.popleft()
          weight, job = begun.pop(first)
          yield job, done.pop(first)
          held -= weight
        if crashed and not self._is_busy:
          self._give(crashed[0], begun[crashed[0]][1])
        while (
          not crashed
          and waiting is not None
          and (not order or held + waiting[0] <= limit)
        ):
          number = next(self._numbers)
          if not self._give(number, waiting[1]):
            break
          begun[number] = waiting
          order.append(number)
          held += waiting[0]
          waiting = next(queue, None)
        if order and (crashed or order[0] not in done):
          for number, result in self._collect().items():
            if _is_crash(result) and number not in retried:
              retried.add(number)
              crashed.append(number)
              continue
            done[number] = result
            if number in crashed:
              crashed.remove(number)
    finally:  # also where the caller takes no more, or the jobs end with an error
      for worker in [w for w in self._workers if w.job in begun]:
        self._remove(worker)

  @property
  def _is_busy(self) -> bool:
    return any(worker.job is not None for worker in self._workers)

  def _give(self, number: int, job: Any) -> bool:
    """Gives a job to an idle worker; False where all of them are busy."""
    while (worker := self._idle()) is not None:
      try:
        worker.pipe.send(job)
      except ConnectionError:  # It was killed while it waited.
        self._remove(worker)
        continue
      worker.job, worker.deadline = number, time.monotonic() + self._timeout
      return True
    return False

  def _idle(self) -> _Worker | None:
    """A worker without a job, or None where all of them are busy."""
    while True:
      while len(self._workers) < self._count:
        self._workers.append(self._start())
      idle = next((w for w in self._workers if w.ready and w.job is None), None)
      if idle is not None or self._is_busy:
        return idle
      self._collect()

  def _start(self) -> _Worker:
    if multiprocessing.current_process().daemon:
      raise RuntimeError(
        "files are examined in separate processes, and this process, a daemon, cannot"
        " start any. Start it as a non-daemon; for Dask's workers set"
        " DASK_DISTRIBUTED__WORKER__DAEMON=False."
      )
    ours, theirs = self._context.Pipe()
    process = self._context.Process(
      target=_serve, args=(theirs, self.function, self._timeout), daemon=True
    )
    # Ctrl-C reaches all processes of a terminal, and is for the parent. What starts the
    # tracker unblocks it.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
      process.start()
    finally:
      signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    return _Worker(process, ours, time.monotonic() + _START_SECONDS)

  def _collect(self) -> dict[int, Result | Failure]:
    """Waits briefly for results, and ends jobs that exceed their time."""
    busy = {w.pipe: w for w in self._workers if not w.ready or w.job is not None}
    done: dict[int, Result | Failure] = {}
    for pipe in connections.wait(list(busy), timeout=_POLL_SECONDS):
      worker = busy.pop(pipe)  # type: ignore[call-overload]
      try:
        result = _receive(worker.pipe)
      except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode
        if not worker.ready:
          self._remove(worker)
          self._died_early(code)
          continue
        how = f"signal {-code}" if code and code < 0 else f"status {code}"
        message = f"the decoder process died with {how}, twice"
        self._end(worker, "crashed", message, done)
        continue
      if worker.ready:
        done[worker.job] = result  # type: ignore[index]
        worker.job = None
      worker.ready, self._stillborn = True, 0
    now = time.monotonic()
    for worker in busy.values():
      if now > worker.deadline:
        if not worker.ready:
          raise RuntimeError(f"a worker process did not start in {_START_SECONDS:g} s.")
        message = (
          f"not finished after {self._timeout:g} s; raise config.media.timeout_seconds if"
          " the file is just long"
        )
        self._end(worker, "timeout", message, done)
    return done

  def _died_early(self, code: int | None) -> None:
    """Counts a process that ended before it was ready.

    Raises:
      RuntimeError: another would end as this one did.
    """
    if code is None or code >= 0:
      raise RuntimeError(
        f"a worker process ended with status {code} before its first job; its message is"
        " above."
      )
    self._stillborn += 1
    if self._stillborn >= _MOST_STARTS * self._count:
      raise RuntimeError(
        f"{self._stillborn} worker processes in a row were killed by signal {-code}"
        " before their first job. Something outside ends them, such as the kernel where"
        " memory is short: lower config.media.workers, or make room, and run again."
      )

  def _end(self, worker: _Worker, reason: str, message: str, done: dict) -> None:
    done[worker.job] = Failure(reason, message)
    self._remove(worker)

  def _remove(self, worker: _Worker) -> None:
    self._workers.remove(worker)
    _stop(worker)


def _is_crash(result: Result | Failure) -> bool:
  return isinstance(result, Failure) and result.reason == "crashed"


def _stop(worker: _Worker) -> None:
  worker.process.kill()
  worker.process.join()
  worker.process.close()
  worker.pipe.close()


def _receive(pipe: connections.Connection) -> Any:
  """Reads one result; an array follows as raw bytes, straight into its memory."""
  message = pipe.recv()
  if not isinstance(message, tuple):
    return message
  value, array = message
  if array is None:
    return value, None
  shape, dtype = array
  received = np.empty(shape, dtype)
  if received.size:
    pipe.recv_bytes_into(received.data.cast("B"))
  return value, received


def _serve(pipe: Any, function: Callable[[Any], Result], timeout: float) -> None:
  """The worker: answers jobs until its parent closes the pipe."""
  heap.keep_some()
  pipe.send("ready")
  while True:
    try:
      job = pipe.recv()
    except (EOFError, ConnectionError):  # The parent is gone.
      return
    signal.setitimer(signal.ITIMER_REAL, timeout + _ALARM_SECONDS)
    try:
      value, array = function(job)
    except Exception as error:
      answer: Any = Failure("error", f"{type(error).__name__}: {error}")
      array = None
    else:
      answer = (value, None if array is None else (array.shape, str(array.dtype)))
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
      pipe.send(answer)
      if array is not None and array.size:
        pipe.send_bytes(np.ascontiguousarray(array).data.cast("B"))
    except ConnectionError:
      return
