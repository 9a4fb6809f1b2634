"""Other processes: what tells of them, and a mistake that is named."""

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
