"""Packed rows and the arrays over them that the tests of all kernels share."""

import jax.numpy as jnp
import numpy as np


def segments(*rows: tuple[int, ...], length: int) -> np.ndarray:
  """Rows of runs numbered from 1 of these lengths, 0 for a number that is not there."""
  found = np.zeros((len(rows), length), np.int32)
  for row, lengths in zip(found, rows, strict=True):
    row[: sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
  return found


def arrays(segments_RN, key_segments_RM, heads: int, size: int, dtype=jnp.float32):
  """Queries, keys, values, and cotangents of the output and the log-sum-exp."""
  rng = np.random.default_rng(0)
  (rows, length), keys = segments_RN.shape, key_segments_RM.shape[1]
  shapes = [(rows, n, heads, size) for n in (length, keys, keys, length)]
  made = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
  return made, jnp.asarray(rng.normal(size=(rows, length, heads)), jnp.float32)


def delta(out_RNAK, dout_RNAK, dlse_RNA):
  """What a kernel's backward pass takes of the cotangents."""
  return (out_RNAK * dout_RNAK).sum(-1) - dlse_RNA
