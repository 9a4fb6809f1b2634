"""Descriptions of GPUs, so that XLA compiles for them without one present.

JAX's CUDA plugin (extra `plan`) compiles without a GPU, and without
CUDA's libraries, for any target description. The chips' figures are NVIDIA's
(data sheets and whitepapers of A100, H100 and H200; the CUDA C++ Programming Guide's
table per compute capability) and, where those round, OpenXLA's descriptions of the same.
"""

import dataclasses
import importlib.util
import os

import jax


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
  """What the compiler has to know about a GPU.

  Attributes:
    kind: as JAX names the device.
    major, minor: of the compute capability.
    cores: streaming multiprocessors.
    lanes: float32 units of a core.
    clock: GHz.
    memory: bytes.
    bandwidth: bytes/s of the memory.
    cache: bytes of the second-level cache.
    shared: bytes of shared memory of a core; a program may use all but 1 KiB.
  """

  kind: str
  major: int
  cores: int
  lanes: int
  clock: float
  memory: int
  bandwidth: int
  cache: int
  shared: int
  minor: int = 0

  @property
  def target(self) -> str:
    """XLA's `GpuTargetConfigProto` as text."""
    extension = "ACCELERATED_FEATURES" if self.major >= 9 else "NONE"
    capability = f"major: {self.major} minor: {self.minor} feature_extension: {extension}"
    device = {
      "threads_per_block_limit": 1024,
      "threads_per_warp": 32,
      "shared_memory_per_block": 48 * 1024,
      "shared_memory_per_core": self.shared,
      "shared_memory_per_block_optin": self.shared - 1024,
      "threads_per_core_limit": 2048,
      "core_count": self.cores,
      "fpus_per_core": self.lanes,
      "block_dim_limit_x": 2**31 - 1,
      "block_dim_limit_y": 65_535,
      "block_dim_limit_z": 65_535,
      "thread_dim_limit_x": 1024,
      "thread_dim_limit_y": 1024,
      "thread_dim_limit_z": 64,
      "registers_per_core_limit": 65_536,
      "registers_per_block_limit": 65_536,
      "memory_bandwidth": self.bandwidth,
      "device_memory_size": self.memory,
      "l2_cache_size": self.cache,
      "clock_rate_ghz": self.clock,
      "device_address_bits": 64,
      "driver_version": '"13.0.0"',
      "runtime_version": '"13.0.0"',
      "compile_time_toolkit_version": '"13.0.0"',
      "dnn_version": '"9.10.0"',
      "name": f'"{self.kind}"',
    }
    fields = " ".join(f"{name}: {value}" for name, value in device.items())
    return (
      f"gpu_device_info {{ cuda_compute_capability {{ {capability} }} {fields} }}"
      ' platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 }'
      f' device_description_str: "{self.kind}"'
    )


_H100 = Gpu(
  kind="NVIDIA H100 80GB HBM3",
  major=9,
  cores=132,
  lanes=128,
  clock=1.98,
  memory=84_942_979_072,
  bandwidth=3_352_320_000_000,
  cache=50 * 2**20,
  shared=228 * 1024,
)
GPUS = {
  "h100": _H100,
  "h200": dataclasses.replace(
    _H100,
    kind="NVIDIA H200",
    memory=151_397_597_184,
    bandwidth=4_800_000_000_000,
  ),
  "a100": Gpu(
    kind="NVIDIA A100-SXM4-80GB",
    major=8,
    cores=108,
    lanes=64,
    clock=1.41,
    memory=85_100_068_864,
    bandwidth=2_039_040_000_000,
    cache=40 * 2**20,
    shared=164 * 1024,
  ),
}


def has_compiler() -> bool:
  """Whether JAX's CUDA plugin is installed."""
  found = importlib.util.find_spec("jax_plugins")
  return bool(found and importlib.util.find_spec("jax_plugins.xla_cuda13"))


def devices(gpu: Gpu, count: int, per_host: int) -> list[jax.Device]:
  """A number of GPUs, on hosts of at most `per_host`; none has to be present.

  Raises:
    ValueError: the compiler refuses the description.
  """
  # The plugin would look for a driver's libraries.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  from jax.experimental import topologies

  side = max(n for n in range(1, per_host + 1) if count % n == 0)
  try:
    found = topologies.get_topology_desc(
      platform="cuda",
      topology_name=gpu.kind,
      target_config=gpu.target,
      topology=f"1x{count // side}x{side}",
    )
  except Exception as error:  # of JAX's runtime, or of its own checks
    first = str(error).splitlines()[0] if str(error) else repr(error)
    raise ValueError(
      f"JAX's CUDA plugin cannot compile for {gpu.kind} ({first}). Install the versions"
      " of constraints.txt, or uninstall the plugin: plans are then made by formula."
    ) from error
  return list(found.devices)
