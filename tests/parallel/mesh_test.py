"""The mesh: what its flag means, and which mistakes it names."""

import os
import subprocess
import sys

import jax
import pytest

from video_dit import config as config_lib
from video_dit.parallel import mesh as mesh_lib


@pytest.mark.parametrize(
  ("text", "spec"),
  [
    ("", mesh_lib.Spec(None, None, {})),
    ("cpu", mesh_lib.Spec("cpu", None, {})),
    ("cpu:8", mesh_lib.Spec("cpu", 8, {})),
    ("gpu", mesh_lib.Spec("gpu", None, {})),
    ("tpu,fsdp=4,context=2", mesh_lib.Spec("tpu", None, {"fsdp": 4, "context": 2})),
    ("cpu:8,data=2,tensor=4", mesh_lib.Spec("cpu", 8, {"data": 2, "tensor": 4})),
    ("fsdp=2", mesh_lib.Spec(None, None, {"fsdp": 2})),
  ],
)
def test_the_flag_reads_as_platform_devices_and_axes(text, spec):
  assert mesh_lib.parse(text) == spec


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("cuda", ["'cuda' is not a platform", "Choose cpu:N, gpu or tpu"]),
    ("cpu:0", ["'0' is not a number of devices", "like cpu:8"]),
    ("cpu:two", ["'two' is not a number of devices", "like cpu:8"]),
    ("gpu:4", ["only cpu takes a number of devices", "gpu uses all it has"]),
    (
      "cpu:8,fdsp=2",
      ["'fdsp' is not an axis", "Did you mean fsdp?", "data, fsdp, tensor"],
    ),
    ("cpu,8", ["'8' is not an axis", "Axes: data, fsdp, tensor, context"]),
    ("cpu:8,fsdp=0", ["'fsdp=0' must be one size", "like fsdp=2"]),
    ("cpu:8,fsdp", ["'fsdp' must be one size", "like fsdp=2"]),
    ("cpu:8,fsdp=2,fsdp=4", ["'fsdp=4' must be one size", "like fsdp=2"]),
    ("fsdp=-2", ["'fsdp=-2' must be one size", "like fsdp=2"]),
  ],
)
def test_a_mistake_is_refused_with_flag_value_and_remedy(text, said):
  with pytest.raises(ValueError) as refused:
    mesh_lib.parse(text)
  for part in (f"--mesh={text}", *said):
    assert part in str(refused.value)


@pytest.mark.parametrize(
  ("devices", "axes", "defaults", "sizes"),
  [
    (1, {}, {}, (1, 1, 1, 1)),
    (8, {}, {}, (8, 1, 1, 1)),
    (8, {"fsdp": 2}, {}, (4, 2, 1, 1)),
    (8, {"tensor": 2, "context": 2}, {"fsdp": 2}, (1, 2, 2, 2)),
    (8, {"fsdp": 1}, {"fsdp": 8}, (8, 1, 1, 1)),  # the flag outranks the config
    (8, {"data": 2, "fsdp": 4}, {}, (2, 4, 1, 1)),
  ],
)
def test_data_takes_the_devices_that_the_others_leave(devices, axes, defaults, sizes):
  assert mesh_lib.sizes(devices, axes, config_lib.Mesh(**defaults)) == sizes


@pytest.mark.parametrize(
  ("axes", "asked"),
  [
    ({"fsdp": 3}, 6),
    ({"tensor": 16}, 16),
    ({"data": 2}, 2),
    ({"data": 3, "fsdp": 4}, 12),
  ],
)
def test_axes_that_do_not_fit_the_devices_are_refused(axes, asked):
  (name, size), *_ = axes.items()
  with pytest.raises(
    ValueError, match=f"{name}={size}.* asks for {asked} devices, but there are 8"
  ):
    mesh_lib.sizes(8, axes, config_lib.Mesh(), "cpu:8")


def test_an_axis_of_the_config_is_not_taken_for_the_flags():
  with pytest.raises(ValueError, match=r"context=8 is the config's own; --mesh can name"):
    mesh_lib.sizes(8, {"fsdp": 8}, config_lib.Mesh(context=8), "fsdp=8")


def test_a_mesh_lies_over_all_devices():
  mesh = mesh_lib.start("fsdp=2,context=2", config_lib.Mesh(tensor=2))
  assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "tensor": 2, "context": 2}
  assert set(mesh.devices.flat) == set(jax.devices())


def test_devices_that_run_already_are_counted(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
  assert mesh_lib.start("cpu:8", config_lib.Mesh()).size == jax.device_count() == 8
  with pytest.raises(
    ValueError, match=r"4 devices requested, but 8 are already running.*Start them"
  ):
    mesh_lib.start("cpu:4", config_lib.Mesh())


def test_a_gpu_that_is_not_here_is_one_message_with_the_remedy():
  code = """
from video_dit import config
from video_dit.parallel import mesh
try:
  mesh.start("gpu", config.Mesh())
except ValueError as error:
  print(error)
"""
  environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
  done = subprocess.run(
    [sys.executable, "-W", "ignore", "-c", code],
    env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    capture_output=True,
    text=True,
    check=True,
  )
  assert "--mesh=gpu: JAX finds no gpu device here (" in done.stdout
  assert "./launch/setup.sh gpu." in done.stdout


_ANSWERS = """
import jax
from video_dit import config
from video_dit.parallel import mesh

def answer(*_):
  raise RuntimeError(f"Unable to initialize backend: {said}")

jax.devices = answer
for said in (
  "INTERNAL: Failed to open libtpu.so: libtpu.so: cannot open shared object file",
  "NOT_FOUND: TPU initialization failed: No jellyfish device found.",
  "Backend 'cuda' is not in the list of known backends: ['cpu', 'tpu'].",
  "FAILED_PRECONDITION: No visible GPU devices.",
  "INTERNAL: no supported devices found for platform CUDA",
  # From here on a device is there, or may be.
  "ABORTED: The TPU is already in use by process with pid 9. Not attempting to load"
  " libtpu.so in this process.",
  "UNKNOWN: TPU initialization failed: open(/dev/vfio/0): Device or resource busy",
  "UNAVAILABLE: No hosts available",
  "DEADLINE_EXCEEDED: Timed out waiting for the topologies of all nodes",
  "INTERNAL: CUDA error: CUDA_ERROR_OUT_OF_MEMORY",
):
  try:
    mesh.start("gpu", config.Mesh())
  except ValueError as error:
    assert said in str(error) and "launch/setup.sh gpu" in str(error)
    print("refused")
  except RuntimeError as error:
    assert "Where another process holds them" in error.__notes__[0]
    print("raised")
"""


def test_devices_that_do_not_start_may_at_another_time():
  """What is refused ends with status 2, after which no launch file starts again."""
  done = subprocess.run(
    [sys.executable, "-c", _ANSWERS], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == ["refused"] * 5 + ["raised"] * 5


class _Chip:
  """A chip of one of several TPU slices of 2 x 2 x 2, as JAX describes it."""

  platform, device_kind, core_on_chip = "tpu", "TPU v5", 0

  def __init__(self, slice_index: int, place: int):
    self.slice_index, self.id = slice_index, 8 * slice_index + place
    self.coords = (place % 2, place // 2 % 2, place // 4)
    self.process_index = self.id // 4


def test_only_data_spans_slices():
  chips = [_Chip(slice_index, place) for slice_index in range(2) for place in range(8)]
  for shape in ((2, 8, 1, 1), (4, 2, 2, 1), (16, 1, 1, 1)):
    mesh = mesh_lib.make(chips, shape)
    assert tuple(mesh.shape.values()) == shape
    # Each part of `data` but for the outermost lies in one slice.
    for half, part in enumerate(mesh.devices.reshape(2, -1)):
      assert {chip.slice_index for chip in part} == {half}
  with pytest.raises(ValueError, match="data=1 does not divide over 2 slices"):
    mesh_lib.make(chips, (1, 16, 1, 1))


class _Gpu:
  """A GPU of one of several nodes, as JAX describes it."""

  platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

  def __init__(self, place: int):
    self.id, self.slice_index, self.process_index = place, place // 8, place

  def __repr__(self):
    return f"gpu {self.id}"


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (2, 8, 1, 1), (1, 2, 4, 2)])
def test_any_axis_spans_the_nodes_of_gpus(shape):
  """JAX numbers nodes as it does slices of TPUs."""
  gpus = [_Gpu(place) for place in range(16)]
  mesh = mesh_lib.make(gpus[::-1], shape)
  assert tuple(mesh.shape.values()) == shape
  assert [gpu.id for gpu in mesh.devices.flat] == list(range(16))


def test_processes_that_were_not_joined_are_refused(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  with pytest.raises(ValueError, match=r"those of 4 processes.* Give --distributed"):
    mesh_lib.start("fsdp=2", config_lib.Mesh())
