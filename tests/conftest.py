"""Settings and fixtures that every test shares."""

import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile many small programs and run each a few times. Set before JAX starts, and
# in the environment, so that commands which tests start compile alike: the second flag
# is the one that `parallel.mesh.start` sets for CPU.
os.environ["XLA_FLAGS"] = " ".join(
  [
    *os.environ.get("XLA_FLAGS", "").split(),
    "--xla_backend_optimization_level=0",
    "--xla_cpu_experimental_ynn_fusion_type=",
  ]
)
# Threads enough to read programs of eight devices from disk: `parallel.programs`.
os.environ["PJRT_NPROC"] = "24"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# One compilation serves every run of the suite on this machine.
jax.config.update(
  "jax_compilation_cache_dir",
  os.environ.get("JAX_COMPILATION_CACHE_DIR")
  or os.path.join(tempfile.gettempdir(), f"video_dit_cache_{os.getuid()}"),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """Folder of real media and of the peers' outputs; absent from a plain clone."""
  folder = REPOSITORY.parent / "shared"
  if not (folder / "media").is_dir():
    pytest.skip(f"no {folder.name}/ beside the clone: real media and fixtures untested")
  return folder
