"""Devices of a topology: of a TPU's or GPU's compiler, or simulated on the CPU."""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from video_dit import config as config_lib
from video_dit import extras
from video_dit.parallel import mesh as mesh_lib
from video_dit.plan import gpus
from video_dit.plan.chips import CHIPS, Chip, Topology, example_slice


def chip_of(topology: Topology) -> Chip:
  """What is known about the topology's chip; for `cpu`, this machine is measured."""
  if topology.platform != "cpu":
    return CHIPS[topology.chip]
  peak = _measure() / topology.count
  pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return Chip(
    name="cpu",
    peak=peak,
    memory=pages / topology.count,
    bandwidth=20e9 / topology.count,
    link=5e9 / topology.count,
    clock=0.0,
    matrix=1.0,  # it was measured
    per_host=topology.count,
  )


def mesh_of(
  topology: Topology, axes: dict[str, int], defaults: config_lib.Mesh
) -> jax.sharding.Mesh:
  """The mesh over all devices of a topology.

  Args:
    topology: whose devices are used; none has to exist here.
    axes: the given sizes; `data` takes the rest.
    defaults: sizes of the config.

  Raises:
    ValueError: no such slice, no compiler is installed, or axes that do not divide.
  """
  devices = {"tpu": _tpu, "gpu": _gpu, "cpu": _cpu}[topology.platform](topology)
  return mesh_lib.make(devices, axis_sizes(topology, len(devices), axes, defaults))


def axis_sizes(
  topology: Topology, count: int, axes: dict[str, int], defaults: config_lib.Mesh
) -> tuple[int, int, int, int]:
  """Sizes of the mesh axes over so many devices.

  Raises:
    ValueError: the axes do not divide the devices, or ask for more or fewer.
  """
  given = ",".join(f"{name}={size}" for name, size in axes.items())
  try:
    return mesh_lib.sizes(count, axes, defaults, given)
  except ValueError as error:
    raise ValueError(
      f"--topology={topology.text} has {count} devices. {error}"
    ) from error


def _tpu(topology: Topology) -> list:
  try:
    import libtpu  # noqa: F401
  except ImportError as error:
    raise ValueError(
      f"--topology={topology.text}: the TPU compiler is not installed. Install it with"
      f" {extras.command('plan')}."
    ) from error
  # The compiler would look for a TPU host, and for other processes that hold it.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  options: dict[str, Any] = dict(CHIPS[topology.chip].options)
  if set(topology.shape.split("x")) == {"1"}:
    options["chips_per_host_bounds"] = (1, 1, 1)  # else it asks for a whole host
  version = f"tpu{topology.chip}" if topology.chip[0].isdigit() else topology.chip
  try:
    found = topologies.get_topology_desc(
      f"{version}:{topology.shape}", platform="tpu", **options
    )
  except Exception as error:  # of JAX's runtime, or of its own checks
    first = str(error).splitlines()[0] if str(error) else repr(error)
    raise ValueError(
      f"--topology={topology.text}: unknown TPU slice ({first})."
      f" Slices of {topology.chip} are like {example_slice(topology.chip)}."
    ) from error
  return list(found.devices)


def _gpu(topology: Topology) -> list:
  per_host = CHIPS[topology.chip].per_host
  return gpus.devices(gpus.GPUS[topology.chip], topology.count, per_host)


def _cpu(topology: Topology) -> list:
  devices = jax.devices("cpu")
  if len(devices) < topology.count:
    raise ValueError(
      f"--topology={topology.text}: JAX already runs with {len(devices)} simulated"
      " devices. Ask for as many, or plan in a separate process."
    )
  return devices[: topology.count]


def start(topology: Topology) -> None:
  """Keeps JAX to the CPU, with the topology's simulated devices."""
  jax.config.update("jax_platforms", "cpu")
  if topology.platform != "cpu":  # Programs for absent devices cannot be cached.
    jax.config.update("jax_enable_compilation_cache", False)
  if topology.platform == "cpu":
    try:
      jax.config.update("jax_num_cpu_devices", topology.count)
    except RuntimeError:
      return  # devices run already; `_cpu` counts them


def _measure() -> float:
  """FLOP/s of a float32 matrix product on this machine, the best of three."""
  size = 1024
  device = jax.devices("cpu")[0]
  x = jax.device_put(np.ones((size, size), np.float32), device)
  product = jax.jit(jnp.dot)
  product(x, x).block_until_ready()
  best = float("inf")
  for _ in range(3):
    began = time.monotonic()
    product(x, x).block_until_ready()
    best = min(best, time.monotonic() - began)
  return 2 * size**3 / best
