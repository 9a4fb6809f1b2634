"""Limits on a GPU's memory and on the host's, set before JAX starts GPUs.

JAX takes 75 % of a GPU's memory, and its plugin for NVIDIA GPUs pins at most 64 GB of the
host's, through which checkpoints and offloaded activations pass. A process with eight
GPUs needs more at its first checkpoint: with parameters, their average and two moments in
float32, from 4 billion parameters on. Both are read from the environment when the devices
start; what is set there is kept.
"""

from collections.abc import MutableMapping
import os
import re

SHARE = 0.92  # of a GPU's memory that JAX may take

_FRACTION = "XLA_CLIENT_MEM_FRACTION"
_OLD_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # jaxlib refuses both together
_HOST_GB = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"
_LEAST_HOST_GB = 64  # the plugin's own default
_LOCAL_PROCESSES = ("SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def set_limits(environment: MutableMapping[str, str]) -> None:
  """Lets JAX take 92 % of each GPU, and pin three quarters of the host's memory.

  The rest of a GPU is for CUDA and for the buffers of NCCL. Pinned memory is taken as it
  is needed; the processes of a host, where the environment says how many, share it.

  Args:
    environment: in which what is not set yet is set.
  """
  if not environment.get(_FRACTION) and not environment.get(_OLD_FRACTION):
    environment[_FRACTION] = str(SHARE)
  if not environment.get(_HOST_GB):
    ours = _host_bytes() * 3 // 4 // _local_processes(environment)
    environment[_HOST_GB] = str(max(_LEAST_HOST_GB, ours // 2**30))


def _host_bytes() -> int:
  return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _local_processes(environment: MutableMapping[str, str]) -> int:
  for name in _LOCAL_PROCESSES:
    if re.fullmatch(r"[1-9]\d*", environment.get(name, "")):
      return int(environment[name])
  return 1
