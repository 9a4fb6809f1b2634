"""How much memory of a GPU and of its host JAX may take."""

import pytest

from video_dit.parallel import gpu

_FRACTION, _HOST = "XLA_CLIENT_MEM_FRACTION", "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"


@pytest.mark.parametrize(
  ("given", "wanted"),
  [
    ({}, {_FRACTION: "0.92", _HOST: "768"}),
    # jaxlib refuses the old name together with the new one.
    (
      {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"},
      {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5", _HOST: "768"},
    ),
    ({_FRACTION: "0.8", _HOST: "100"}, {_FRACTION: "0.8", _HOST: "100"}),
    (
      {"SLURM_NTASKS_PER_NODE": "8"},
      {"SLURM_NTASKS_PER_NODE": "8", _FRACTION: "0.92", _HOST: "96"},
    ),
    (
      {"OMPI_COMM_WORLD_LOCAL_SIZE": "100"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE": "100", _FRACTION: "0.92", _HOST: "64"},
    ),
  ],
)
def test_what_is_not_set_is_set_for_the_machine(given, wanted, monkeypatch):
  monkeypatch.setattr(gpu, "_host_bytes", lambda: 1024 * 2**30)
  environment = dict(given)
  gpu.set_limits(environment)
  assert environment == wanted


def test_the_limits_reach_jax(monkeypatch):
  """It reads the environment when devices start, not when it is imported."""
  from jaxlib import xla_client

  for name in (_FRACTION, "XLA_PYTHON_CLIENT_MEM_FRACTION", _HOST):
    monkeypatch.delenv(name, raising=False)
  environment: dict[str, str] = {}
  gpu.set_limits(environment)
  monkeypatch.setenv(_FRACTION, environment[_FRACTION])
  assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.92
  assert int(environment[_HOST]) >= 64
