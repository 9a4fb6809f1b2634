"""What a step frees is at hand for the next one, on a CPU under glibc."""

import platform
import subprocess
import sys

import pytest

# Temporary memory of 100 MB a call; prints the pages that the last two calls asked for.
_SCRIPT = """
import resource
from video_dit import config
from video_dit.parallel import mesh

mesh.start("cpu:1", config.Mesh(), keep={keep})
import jax
import jax.numpy as jnp

@jax.jit
def step(x):
  table = jax.lax.optimization_barrier(jnp.outer(x, x))
  return table.sum() + jnp.flip(table, 0)[0].sum()

x = jnp.ones(5000)
for turn in range(4):
  if turn == 2:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _pages(keep: bool) -> int:
  script = [sys.executable, "-c", _SCRIPT.format(keep=keep)]
  return int(subprocess.run(script, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to")
def test_a_step_finds_the_memory_of_the_one_before():
  kept, returned = _pages(True), _pages(False)
  pages = 5000 * 5000 * 4 / 4096
  if returned < pages:
    pytest.skip("the system hands out memory in larger pieces")
  assert kept < 0.02 * pages
