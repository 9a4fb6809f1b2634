r"""Context parallelism: how even a ring is, and what a device holds.

  python -m tests.benchmarks.context              of rows of uneven clips, by counting
  python -m tests.benchmarks.context --memory     compiled for eight CPU devices

Counted are kernel blocks of 512 queries by 512 keys whose ranges of segments meet. In a
turn of the ring every group waits for the one with the most of them, so a row takes the
sum over turns of the most that any group has, here over its share of the ideal work: the
sum of the squared lengths. `unevenness` is of the exact work, whatever the blocks.
"""

import sys

import numpy as np

from video_dit.parallel import stripes

BLOCK = 512
_ROWS = 12


def _segments(rng: np.random.Generator, length: int) -> np.ndarray:
  """A row: half images of 256 to 4,096 tokens, half clips of 1k to 64k, in any order."""
  lengths: list[int] = []
  while sum(lengths) < length:
    low, high = ((8, 12), (10, 15), (15, 16))[rng.choice(3, p=(0.5, 0.45, 0.05))]
    lengths.append(min(int(2 ** rng.uniform(low, high)), length - sum(lengths)))
  rng.shuffle(lengths)
  return np.repeat(np.arange(len(lengths)) + 1, lengths)


def _blocks(segments_WN: np.ndarray) -> np.ndarray:
  """Blocks that the queries of each group visit among the keys of each, `(W, W)`."""
  ends = segments_WN.reshape(len(segments_WN), -1, min(BLOCK, segments_WN.shape[1]))
  low, high = ends.min(-1), ends.max(-1)
  meet = (high[:, None, :, None] >= low[None, :, None]) & (
    high[None, :, None] >= low[:, None, :, None]
  )
  return meet.sum((-2, -1)) * ends.shape[-1] ** 2


def _dealt(segments: np.ndarray, ring: int, stripe: int | None) -> np.ndarray:
  """The segments of each group; None gives each one run of the row."""
  if stripe is None:
    return segments.reshape(ring, -1)
  return segments.reshape(-1, ring, stripe).swapaxes(0, 1).reshape(ring, -1)


def balance() -> None:
  """Prints unevenness and time of rows in runs and in stripes of several lengths."""
  print("| row | ring | dealt in | unevenness: mean, most | ring's time over ideal |")
  print("|---|---|---|---|---|")
  for length, ring in ((32_768, 4), (65_536, 8), (524_288, 8)):
    rng = np.random.default_rng(0)
    rows = [_segments(rng, length) for _ in range(_ROWS if length < 10**5 else 3)]
    ours = stripes.stripe_tokens(length, ring)
    for stripe in (None, 1, 128, ours):
      uneven, times = [], []
      for segments in rows:
        pairs = np.bincount(segments).astype(np.float64)
        dealt = _dealt(segments, ring, stripe)
        work = pairs[dealt].sum(1)
        uneven.append(work.max() / work.mean() - 1)
        blocks, groups = _blocks(dealt), np.arange(ring)
        turns = [blocks[groups, (groups - t) % ring].max() for t in range(ring)]
        times.append(sum(turns) * ring / np.square(pairs).sum())
      name = "one run each" if stripe is None else f"stripes of {stripe}"
      print(
        f"| {length:,} | {ring} | {name}{' (ours)' if stripe == ours else ''}"
        f" | {np.mean(uneven):.1%}, {np.max(uneven):.1%} | {np.mean(times):.2f} |"
      )


def memory() -> None:
  """Prints the bytes that a device needs for one attention, forward and backward."""
  import jax

  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", 8)
  import jax.numpy as jnp

  from video_dit.parallel import attention
  from video_dit.parallel import mesh as mesh_lib

  length, heads, size = 16_384, 8, 64
  print("| context | " + " | ".join(("gather", "ring", "all_to_all")) + " |")
  print("|---|---|---|---|")
  for ways in (2, 4, 8):
    cells = []
    for mode in ("gather", "ring", "all_to_all"):

      def loss(q, k, v, segments, mode=mode):
        out = attention.packed_attention(
          *(q, k, v, segments, segments), kernel="chunked", context=mode
        )
        return jnp.sum(jnp.square(out))

      mesh = mesh_lib.make(jax.devices()[:ways], (1, 1, 1, ways))
      split = jax.NamedSharding(mesh, jax.P(None, "context"))
      array = jax.ShapeDtypeStruct((1, length, heads, size), jnp.float32)
      segments = jax.ShapeDtypeStruct((1, length), jnp.int32)
      with jax.set_mesh(mesh):
        step = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=(split,) * 4)
        compiled = step.lower(array, array, array, segments).compile()
      cells.append(f"{compiled.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB")
    print(f"| {ways} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  memory() if "--memory" in sys.argv[1:] else balance()
