"""Several processes as one run: detecting that there are others, and joining them.

| started by | detected by |
|---|---|
| hand | `JAX_COORDINATOR_ADDRESS=host:port`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` |
| Slurm (`srun`) | its own variables, several tasks |
| Open MPI | its own variables, several ranks |
| GKE | `TPU_WORKER_HOSTNAMES` with several names, or `MEGASCALE_NUM_SLICES` |
| Cloud TPU VM slice | its metadata server, which is queried only with `--distributed` |

The process of rank 0 coordinates. Every process must have the same config, the same data
and the same workdir, on a disk that all of them see.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import itertools
import os
import pathlib
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np
import tqdm

from video_dit import lock

_WAIT_SECONDS = 5
_WAITS_IN_SILENCE = 12


def evidence(environment: Mapping[str, str]) -> str:
  """What says that this is one of several processes; empty where nothing does."""
  if environment.get("JAX_COORDINATOR_ADDRESS"):
    return "JAX_COORDINATOR_ADDRESS"
  slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
  counts = {"OMPI_COMM_WORLD_SIZE": True, "MEGASCALE_NUM_SLICES": True}
  counts["SLURM_NTASKS"] = all(name in environment for name in slurm)
  for name, counted in counts.items():
    if counted and environment.get(name, "1") != "1":
      return name
  if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
    return "TPU_WORKER_HOSTNAMES"
  return ""


def join(wanted: bool | None) -> None:
  """Joins the other processes of the run; must come before anything touches a device.

  Args:
    wanted: True joins even if only a metadata server knows of the others, False never
      joins, None joins if the environment says that there are others.

  Raises:
    ValueError: the others cannot be found, or did not connect.
  """
  found = evidence(os.environ)
  if wanted is False or not (wanted or found) or jax.distributed.is_initialized():
    return
  try:
    if found == "JAX_COORDINATOR_ADDRESS":
      jax.distributed.initialize(
        num_processes=_number("JAX_NUM_PROCESSES"), process_id=_number("JAX_PROCESS_ID")
      )
    else:
      jax.distributed.initialize()
  except (RuntimeError, ValueError) as error:
    raise ValueError(
      "could not connect to the other processes of this run"
      f" ({found or '--distributed'}): {error}. Start as many as were announced, or pass"
      " --nodistributed to run this one alone."
    ) from error


def check_joined() -> None:
  """Refuses devices of several processes that were not joined; after devices started.

  The hosts of a TPU slice start as one even so, but could agree on nothing.

  Raises:
    ValueError: the processes were not joined.
  """
  count = jax.process_count()
  if count > 1 and not jax.distributed.is_initialized():
    raise ValueError(
      f"these devices are those of {count} processes, as the hosts of a TPU slice are,"
      " which were not joined. Give --distributed on all of them."
    )


def end_together() -> None:
  """Waits until the other processes have done their work too; all call it at their end.

  JAX aborts all processes where one has ended for five minutes and another has not, which
  may still be encoding its share, or writing videos. A process that fails does not come
  here: the others are aborted after these minutes, as they should be.

  Raises:
    RuntimeError: the first process was lost meanwhile.
  """
  if not jax.distributed.is_initialized():
    return
  client = _client()
  client.key_value_set(f"video_dit/ended/{jax.process_index()}", "ended")
  waits = 0
  for process in range(jax.process_count()):
    while not _ended(client, process):
      waits += 1
      if waits == _WAITS_IN_SILENCE:
        logging.warning("done here; waiting for process %d to end too", process)


def _ended(client: Any, process: int) -> bool:
  """Whether a process has done its work; waits for that a little, then Ctrl-C works."""
  try:
    client.blocking_key_value_get(f"video_dit/ended/{process}", 1000 * _WAIT_SECONDS)
  except jax.errors.JaxRuntimeError as error:
    if "DEADLINE_EXCEEDED" not in str(error):
      raise
    return False
  return True


def leads() -> bool:
  """Whether this is the process that writes files and prints for all."""
  return jax.process_index() == 0


def say(text: str) -> None:
  """Prints a line, above the progress bars, if this process leads."""
  if leads():
    tqdm.tqdm.write(text)


def bar(*args: Any, **kwargs: Any) -> tqdm.tqdm:
  """A progress bar, as `tqdm.tqdm`'s; only the leading process shows it."""
  return tqdm.tqdm(*args, disable=not leads(), **kwargs)


def fetch(tree: Any) -> Any:
  """Device arrays as complete NumPy arrays on every process; all must call it.

  Args:
    tree: of arrays, which may be spread over the devices of several processes.
  """
  return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(_gathered, tree)))


def place(tree: Any, sharding: jax.sharding.Sharding | None) -> Any:
  """Arrays on devices, those of all processes where they share the sharding.

  Each process gives its devices their parts from its own arrays. `jax.device_put` would
  gather a copy of every process on every device, to refuse arrays that differ in a bit,
  as what different GPUs computed may.

  Args:
    tree: of arrays, whole in every process.
    sharding: of all of them; None is the default device.
  """

  def put(array: Any) -> jax.Array:
    spread = isinstance(array, jax.Array) and not array.is_fully_addressable
    if spread or sharding is None or sharding.is_fully_addressable:
      return jax.device_put(array, sharding)
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda at: array[at])

  return jax.tree.map(put, tree)


def of_first(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The first process's arrays, on every process; all must call it.

  Args:
    arrays: of one dtype, their first axes of any lengths, the others equal; of the same
      shapes in every process.
  """
  if jax.process_count() == 1 or not arrays:
    return list(arrays)
  # As one array: each shape would be compiled for itself.
  whole = multihost_utils.broadcast_one_to_all(np.concatenate(arrays))
  return np.split(whole, np.cumsum([len(array) for array in arrays])[:-1])


def _gathered(array: Any) -> Any:
  if not isinstance(array, jax.Array):
    return array
  if array.is_fully_addressable or array.is_fully_replicated:
    return array
  return multihost_utils.process_allgather(array, tiled=True)


_told = itertools.count()


def tell(word: str, seconds: float) -> str:
  """Tells all processes what the first one says; all must call it.

  It uses no collectives, so that one may wait for longer than JAX does.

  Args:
    word: of the first process; the others' words are ignored.
    seconds: how long the others wait for it.

  Raises:
    TimeoutError: it said nothing for so long.
  """
  if jax.process_count() == 1:
    return word
  client, key = _client(), f"video_dit/{next(_told)}"
  if leads():
    client.key_value_set(key, f"said {word}")
    return word
  try:
    word = client.blocking_key_value_get(key, int(1000 * seconds))
  except jax.errors.JaxRuntimeError as error:
    raise TimeoutError(
      f"the first process of this run said nothing for {seconds:.0f} s ({error})"
    ) from error
  return word.removeprefix("said ")


def _client() -> Any:
  """JAX's connection to the other processes, for which it has no public name."""
  from jax._src import distributed

  client = distributed.global_state.client
  assert client is not None
  return client


def greatest(value: int) -> int:
  """The greatest of a number of each process; all must call it."""
  if jax.process_count() == 1:
    return value
  return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def check(of_first: Callable[[], None], seconds: float = 3600.0) -> None:
  """Runs a check in the first process alone; all call it, and all refuse what it does.

  So what is long to read is read by one host of many.

  Args:
    of_first: the check.
    seconds: that the others wait for it.

  Raises:
    ValueError: as the check in the first process.
    RuntimeError: the check failed there in another way; the first raises what it met.
  """
  problem = None
  if leads():
    try:
      of_first()
    except Exception as error:
      problem = error
  _share(problem, seconds, ValueError)


def _share(problem: Exception | None, seconds: float, known: type[Exception]) -> None:
  """Raises in all processes what the first one met, so that none waits for it in vain."""
  kind = "refused" if isinstance(problem, known) else "failed"
  said = tell(f"{kind} {problem!s}" if problem else "", seconds)
  if problem:
    raise problem
  if said:
    kind, _, text = said.partition(" ")
    if kind == "refused":
      raise known(text)
    raise RuntimeError(f"the first process of this run failed: {text}")


@contextlib.contextmanager
def alone(
  folder: pathlib.Path, *, flag: str, wait_seconds: float = 10.0
) -> Iterator[None]:
  """Holds a folder's lock while the processes of this run use it; all must call it.

  Args:
    folder: that they share, of which the first one holds the lock.
    flag: as for `lock.held`.
    wait_seconds: as for `lock.held`.

  Raises:
    lock.Busy: another run is using it; in every process.
    RuntimeError: as of `check`.
  """
  with contextlib.ExitStack() as held:
    problem = None
    if leads():
      try:
        held.enter_context(
          lock.held(folder, flag=flag, wait_seconds=wait_seconds, say=say)
        )
      except Exception as error:
        problem = error
    _share(problem, wait_seconds + 240, lock.Busy)
    yield


def _number(name: str) -> int | None:
  """An integer of the environment; None leaves it to JAX to find."""
  text = os.environ.get(name)
  if text is None:
    return None
  if not text.isdecimal():
    raise ValueError(f"{name}={text!r} is not an integer")
  return int(text)
