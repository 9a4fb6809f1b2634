"""The device mesh: four axes over CPU, GPU or TPU devices.

`data` and `fsdp` split the rows of a batch; `fsdp` also splits parameters; `tensor`
splits heads and hidden units; `context` splits the tokens of a row.
"""

import contextlib
import dataclasses
import difflib
import os
import re

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType

from video_dit import config as config_lib
from video_dit import heap
from video_dit.parallel import gpu, hosts, programs

AXES = ("data", "fsdp", "tensor", "context")
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}

# Measured on two shared cores with jax 0.10.2, single noisy runs: at level 1 programs
# compile faster and run about as fast, and without the fusions of its matrix library a
# small DiT step took about two thirds of the time.
_CPU_FLAGS = {"--xla_backend_optimization_level": "1"}
# XLA ends the process at a flag that it does not know: only where it was tried.
if jax.__version_info__ < (0, 13):
  _CPU_FLAGS["--xla_cpu_experimental_ynn_fusion_type"] = ""


# By default small sharded products are cut into strips that pass from device to device:
# many small products cost more than the gathering that they would hide.
_TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


# What JAX says where there is no such device, or nothing that could drive it. Whatever
# else goes wrong may pass: a device that another process holds, a host that is late.
_ABSENT = (
  "is not in the list of known backends",
  "No jellyfish device found",  # libtpu's word for a TPU
  "Failed to open libtpu",
  "no supported devices found",
  "No visible GPU devices",
  "CUDA_ERROR_NO_DEVICE",
  "no CUDA-capable device",
  "provides no devices",
)
_HELD = (
  "The devices did not start. Where another process holds them (a run that is still"
  " ending, a notebook, `sudo lsof /dev/accel* /dev/vfio/*`, `nvidia-smi`), end it; where"
  " another host of this run is late or lost, start all of them again."
)


def compiler_options(mesh: jax.sharding.Mesh) -> dict[str, str]:
  """Options to compile a program over this mesh with, even without its devices."""
  return dict(_TPU_OPTIONS) if mesh.devices.flat[0].platform == "tpu" else {}


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a --mesh flag says: a platform, devices per process (cpu), axis sizes."""

  platform: str | None
  devices: int | None
  axes: dict[str, int]


def parse(text: str) -> Spec:
  """Reads `cpu:8`, `gpu`, `tpu,fsdp=4,context=2`; empty takes what JAX finds.

  Raises:
    ValueError: an unknown platform or axis, or a size that is not an integer.
  """
  head, *tail = text.split(",") if text else [""]
  if "=" in head:
    head, tail = "", [head, *tail]
  platform, _, count = head.partition(":")
  if platform and platform not in PLATFORMS:
    raise ValueError(
      f"--mesh={text}: {platform!r} is not a platform. Choose cpu:N, gpu or tpu."
    )
  if count and not re.fullmatch(r"[1-9]\d*", count):
    raise ValueError(
      f"--mesh={text}: {count!r} is not a number of devices. Write it like cpu:8."
    )
  if count and platform != "cpu":
    raise ValueError(
      f"--mesh={text}: only cpu takes a number of devices; {platform} uses all it has."
    )
  axes = {}
  for item in tail:
    name, _, size = item.partition("=")
    if name not in AXES:
      near = difflib.get_close_matches(name, AXES, n=1)
      hint = f" Did you mean {near[0]}?" if near else ""
      raise ValueError(
        f"--mesh={text}: {name!r} is not an axis.{hint} Axes: {', '.join(AXES)}."
      )
    if name in axes or not re.fullmatch(r"[1-9]\d*", size):
      raise ValueError(f"--mesh={text}: {item!r} must be one size, like {name}=2.")
    axes[name] = int(size)
  return Spec(platform or None, int(count) if count else None, axes)


def start(
  text: str, defaults: config_lib.Mesh, *, keep: bool = True
) -> jax.sharding.Mesh:
  """Starts the devices and builds the mesh over all of them.

  Must come before anything else touches a device.

  Args:
    text: the --mesh flag.
    defaults: axis sizes where the flag gives none.
    keep: on cpu, hold on to freed memory: for programs that run over and over.

  Raises:
    ValueError: no such devices here, fewer than requested, or axes that do not divide;
      or the devices are those of several processes that were not joined.
    RuntimeError: devices are there, but did not start; they may at another time.
  """
  spec = parse(text)
  if spec.platform:
    jax.config.update("jax_platforms", PLATFORMS[spec.platform])
  if spec.devices:
    # Refused once devices run, even for the same number; they are counted below.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", spec.devices)
  if spec.platform == "cpu":
    if keep:
      # Steps run in the calling thread, since only its heap can grow to any size; on a
      # CPU nothing is gained by running a step concurrently with its caller.
      jax.config.update("jax_cpu_enable_async_dispatch", False)
      heap.keep_all()
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"{k}={v}" for k, v in _CPU_FLAGS.items() if k not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *ours])
  if spec.platform in ("gpu", None):
    gpu.set_limits(os.environ)
  try:
    devices = jax.devices()
  except (RuntimeError, AssertionError) as error:  # JAX asserts that it sees a GPU.
    if str(error) and not any(said in str(error) for said in _ABSENT):
      error.add_note(_HELD)
      raise
    name = spec.platform if spec.platform in ("gpu", "tpu") else ""
    why = str(error) or "no NVIDIA driver or no GPU"
    remedy = f" If there is one, install JAX's support for it: ./launch/setup.sh {name}."
    raise ValueError(
      f"--mesh={text}: JAX finds no {name or 'such'} device here ({why})."
      f"{remedy if name else ''}"
    ) from error
  if spec.devices and jax.local_device_count() != spec.devices:
    raise ValueError(
      f"--mesh={text}: {spec.devices} devices requested, but {jax.local_device_count()}"
      " are already running. Start them before JAX is used, or request as many."
    )
  hosts.check_joined()
  programs.compile_anew_where_needed(devices)
  return make(devices, sizes(len(devices), spec.axes, defaults, text))


def sizes(
  num_devices: int, axes: dict[str, int], defaults: config_lib.Mesh, text: str = ""
) -> tuple[int, int, int, int]:
  """Axis sizes whose product is the number of devices; `data` takes the rest.

  Raises:
    ValueError: the axes do not divide the devices, or ask for more or fewer.
  """
  inner = {a: axes.get(a, getattr(defaults, a)) for a in AXES[1:]}
  product = inner["fsdp"] * inner["tensor"] * inner["context"]
  data = axes.get("data") or max(1, num_devices // product)
  if data * product != num_devices:
    shown = ", ".join(f"{k}={v}" for k, v in {"data": data, **inner}.items())
    where = f"--mesh={text}" if axes else "config.mesh"
    remedy = "" if axes else " Name others with --mesh, like --mesh=fsdp=1."
    if ours := [f"{k}={v}" for k, v in inner.items() if axes and k not in axes and v > 1]:
      remedy = f" {', '.join(ours)} is the config's own; --mesh can name another."
    raise ValueError(
      f"{where}: {shown} asks for {data * product} devices, but there are"
      f" {num_devices}. The product of the axes must equal the devices; data takes the"
      f" rest where it is not given.{remedy}"
    )
  return (data, inner["fsdp"], inner["tensor"], inner["context"])


def make(devices, shape: tuple[int, int, int, int]) -> jax.sharding.Mesh:
  """A mesh of the four axes over `devices`, sharded by the partitioner.

  On a TPU slice axes lie along its links; an axis whose size no dimension has, like 8 on
  4x4x4, takes parts of several. Of several slices, each has its own part of `data`, the
  only axis whose traffic suits the network between them. GPUs are numbered node by node,
  so that a node's are neighbours on the innermost axes; any axis may span nodes.

  Raises:
    ValueError: `data` does not divide over the slices.
  """
  types = (AxisType.Auto,) * 4
  if devices[0].platform == "gpu":  # whose `slice_index` is the node's
    placed = mesh_utils.create_device_mesh(shape, devices)
    return jax.sharding.Mesh(placed, AXES, axis_types=types)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  if slices > 1:
    data, *inner = shape
    if data % slices:
      raise ValueError(
        f"data={data} does not divide over {slices} slices of TPUs. Between slices only"
        " data-parallel work is divided: make the product of fsdp, tensor and context at"
        f" most the {len(devices) // slices} devices of a slice."
      )
    placed = mesh_utils.create_hybrid_device_mesh(
      (data // slices, *inner),
      (slices, 1, 1, 1),
      devices,
      allow_split_physical_axes=True,
    )
    return jax.sharding.Mesh(placed, AXES, axis_types=types)
  try:
    return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
  except NotImplementedError:
    placed = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(placed, AXES, axis_types=types)
