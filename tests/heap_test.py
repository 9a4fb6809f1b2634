"""What a step or a frame frees is at hand for the next one, under glibc."""

import platform
import subprocess
import sys

import pytest

_STEPS = 15
# Temporary memory of 100 MB a call; prints the pages that calls after the first ask for.
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
for turn in range(1 + {steps}):
  if turn == 1:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Four frames of 1.2 MB at a time, then 80; prints the pages that the last ones asked for.
_FRAMES = """
import resource
import numpy as np
from video_dit import heap

{keep}
def pages(count):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  frames = [np.ones((480, 854, 3), np.uint8) for _ in range(count)]
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for count in (4, 80):
  found = [pages(count) for turn in range(4)]
  print(found[-1])
"""

pytestmark = pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="only glibc is told to"
)


def _run(script: str) -> list[int]:
  command = [sys.executable, "-c", script]
  done = subprocess.run(command, capture_output=True, check=True, text=True)
  return [int(word) for word in done.stdout.split()]


def test_a_step_finds_the_memory_of_the_one_before():
  (kept,), (returned,) = (
    _run(_SCRIPT.format(keep=keep, steps=_STEPS)) for keep in (True, False)
  )
  pages = 5000 * 5000 * 4 / 4096
  if returned < 0.9 * _STEPS * pages:
    pytest.skip("the system hands out memory in larger pieces")
  # Once or twice it asks again: something small came to lie where its memory was.
  assert kept < 0.3 * _STEPS * pages


def test_a_frame_finds_the_memory_of_the_one_before():
  pages = 4 * 480 * 854 * 3 / 4096
  returned, _ = _run(_FRAMES.format(keep=""))
  if returned < 0.9 * pages:
    pytest.skip("the system hands out memory in larger pieces")
  kept, many = _run(_FRAMES.format(keep="heap.keep_some()"))
  assert kept < 0.02 * pages
  # 64 MiB at a time are given back, and so are asked for.
  assert many > 0.9 * 2**26 / 4096
