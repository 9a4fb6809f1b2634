"""Other processes: what tells of them, and a mistake that is named."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from video_dit.parallel import hosts

_SLURM = {
  "SLURM_JOB_ID": "7",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_PROCID": "0",
  "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
  ("environment", "found"),
  [
    ({}, ""),
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_COORDINATOR_ADDRESS"),
    (_SLURM | {"SLURM_NTASKS": "2"}, "SLURM_NTASKS"),
    (_SLURM | {"SLURM_NTASKS": "1"}, ""),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, ""),  # a batch script, not a task
    ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE"),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_HOSTNAMES"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, ""),
    ({"MEGASCALE_NUM_SLICES": "2"}, "MEGASCALE_NUM_SLICES"),
  ],
)
def test_the_environment_tells_of_others(environment, found):
  assert hosts.evidence(environment) == found


def test_nobody_is_joined_where_there_is_nobody(monkeypatch):
  called = []
  monkeypatch.setattr(hosts.jax.distributed, "initialize", lambda **_: called.append(1))
  monkeypatch.setattr(hosts.os, "environ", {})
  hosts.join(None)
  monkeypatch.setattr(hosts.os, "environ", {"JAX_COORDINATOR_ADDRESS": "a:1"})
  hosts.join(False)
  assert not called
  hosts.join(None)
  assert called


def test_a_wrong_number_of_processes_is_named(monkeypatch):
  wrong = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two"}
  monkeypatch.setattr(hosts.os, "environ", wrong)
  with pytest.raises(ValueError, match=r"JAX_NUM_PROCESSES='two' .* --nodistributed"):
    hosts.join(None)


def test_a_check_that_fails_refuses_in_a_process_alone_too():
  def refuse():
    raise ValueError("another encoder")

  with pytest.raises(ValueError, match="another encoder"):
    hosts.check(refuse)
  hosts.check(lambda: None)


_TWO = """
import pathlib, sys
import jax
from video_dit import lock
from video_dit.parallel import hosts

hosts.join(None)
me = jax.process_index()
print("greatest", hosts.greatest(3 + me))

def fail(error):
  raise error

for error in (ValueError("no grid"), PermissionError(13, "not allowed", "/a"), None):
  try:
    hosts.check(lambda: error and fail(error), 20)
    print("passed")
  except Exception as found:
    print(type(found).__name__, found)
try:
  with hosts.alone(pathlib.Path("/proc/none"), flag="--workdir"):
    print("held")
except Exception as found:
  print(type(found).__name__)
try:
  hosts.tell("", 20) if me else hosts.tell("a word", 0)
  if me:
    hosts.tell("", 0.5)
except Exception as found:
  print(type(found).__name__, found)
"""


def _pair(code: str) -> list[subprocess.Popen]:
  """Two processes of one run."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  together = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
  return [
    subprocess.Popen(
      [sys.executable, "-c", code],
      env=os.environ | together | {"JAX_PROCESS_ID": str(i)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]


def _said(code: str) -> list[list[str]]:
  """What two processes of a run print."""
  pair = _pair(code)
  said = [process.communicate(timeout=120)[0].splitlines() for process in pair]
  return [[x for x in lines if "[Gloo]" not in x] for lines in said]


def test_what_one_process_meets_all_are_told():
  """Else the others would wait for it, for an hour or for ever."""
  first, second = _said(_TWO)
  problem = "[Errno 13] not allowed: '/a'"
  failed = "RuntimeError the first process of this run failed"
  assert first[:4] == [
    "greatest 4",
    "ValueError no grid",
    f"PermissionError {problem}",
    "passed",
  ]
  assert second[:4] == [*first[:2], f"{failed}: {problem}", "passed"]
  assert "Error" in first[4] and second[4] == "RuntimeError"
  assert second[5].startswith("TimeoutError the first process of this run said nothing")


_SLOW = """
import functools, sys, time
import jax
jax.distributed.initialize = functools.partial(
  jax.distributed.initialize, shutdown_timeout_seconds=2
)
from video_dit import config, flags

def work():
  flags.mesh(config.Config(name="", objective="diffusion"))
  if jax.process_index() == 0:
    time.sleep(10)
    print("wrote it", flush=True)
    sys.exit(1)

flags.define_mesh()
flags.run(work, "")
"""


def test_a_process_that_is_done_waits_for_the_others():
  """JAX aborts them all where one has ended for a while and another has not."""
  first, second = _pair(_SLOW)
  assert "wrote it" in first.communicate(timeout=120)[0]
  second.communicate(timeout=120)
  assert (first.returncode, second.returncode) == (1, 0)


_PLACE = """
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from video_dit.parallel import hosts

jax.config.update("jax_num_cpu_devices", 2)
hosts.join(None)
me = jax.process_index()
mesh = Mesh(np.array(jax.devices()), ("data",))
mine = np.arange(8, dtype=np.float16) + me / 2
for spec in (PartitionSpec("data"), PartitionSpec()):
  placed = hosts.place({"x": mine}, NamedSharding(mesh, spec))["x"]
  again = hosts.place(placed, NamedSharding(mesh, spec))
  print([part.data.tolist() for part in again.addressable_shards])
print([x.tolist() for x in hosts.of_first([mine[:3], mine[:0], mine[3:]])])
"""


def test_arrays_that_differ_between_processes_are_placed_and_may_be_the_first_ones():
  first, second = _said(_PLACE)
  whole = [float(x) for x in range(8)]
  assert first[0] == str([whole[:2], whole[2:4]])
  assert second[0] == str([[4.5, 5.5], [6.5, 7.5]])
  assert first[1] == str([whole] * 2)
  assert second[1] == str([[x + 0.5 for x in whole]] * 2)
  assert first[2] == second[2] == str([whole[:3], [], whole[3:]])


def test_one_process_places_arrays_on_the_default_device_or_as_asked():
  x, device = np.arange(8.0, dtype=np.float32), jax.devices()[3]
  assert hosts.place(x, None).devices() == {jax.devices()[0]}
  found = hosts.place([x], jax.sharding.SingleDeviceSharding(device))[0]
  assert found.devices() == {device}
  assert hosts.of_first([x])[0] is x
