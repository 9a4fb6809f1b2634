"""dtypes that are read and written: their names, a common dtype of several, casts."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NAMES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
# Narrowest first: one of them holds every value of several dtypes.
_WIDER = ("bfloat16", "float16", "float32")
_BITS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_BLOCK = 1 << 17  # values that are tested at a time, so that they stay in the cache


class NotFiniteError(ValueError):
  """A number that was read is infinite or not a number."""


def check(dtype: jax.typing.DTypeLike | None) -> np.dtype | None:
  """The requested dtype; None stays None.

  Raises:
    ValueError: parameters are not kept in it.
  """
  if dtype is None:
    return None
  try:
    found = jnp.dtype(dtype)
  except TypeError:
    found = None
  if found is None or found.name not in _NAMES:
    raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(_NAMES)}.")
  return found


def common(dtypes: Collection[np.dtype]) -> np.dtype:
  """The narrowest dtype that holds every value of these, float64 left out."""
  kinds = (*dtypes, *map(jnp.dtype, _WIDER))
  return next(kind for kind in kinds if all(_holds(kind, other) for other in dtypes))


def _holds(wide: np.dtype, narrow: np.dtype) -> bool:
  one, other = jnp.finfo(wide), jnp.finfo(narrow)
  return (
    one.nmant >= other.nmant
    and one.max >= other.max
    and one.smallest_subnormal <= other.smallest_subnormal
  )


def cast(value: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  """A value in another dtype; itself where it has that one.

  Args:
    value: of numpy, of floating point.
    dtype: that is wanted.
    name: of the tensor, for the message.

  Raises:
    ValueError: it holds a finite number that would not be finite there.
  """
  if value.dtype == dtype:
    return value
  with np.errstate(over="ignore"):
    found = value.astype(dtype, order="C")
  if not is_finite(found):
    lost = np.isfinite(value) & ~np.isfinite(found)
    if lost.any():
      largest = float(np.abs(value[lost]).max())
      raise ValueError(
        f"{name} holds {largest:g}, but the largest {dtype} is"
        f" {float(jnp.finfo(dtype).max):g}: choose a wider one, like float32 or bfloat16."
      )
  return found


def is_finite(value: np.ndarray) -> bool:
  """Whether all numbers are finite, several times faster than `np.isfinite` tells it.

  Without the sign, the bits of floating point are in the order of the numbers, and those
  of infinity and of what is no number lie above those of the largest one.

  Args:
    value: row-major, of one of the dtypes that parameters are kept in.
  """
  bits = _BITS[value.dtype.itemsize]
  largest = np.asarray(jnp.finfo(value.dtype).max, value.dtype).view(bits)
  unsigned = bits((1 << 8 * value.dtype.itemsize - 1) - 1)
  flat = value.reshape(-1).view(bits)
  blocks = (flat[i : i + _BLOCK] for i in range(0, flat.size, _BLOCK))
  return all((block & unsigned).max() <= largest for block in blocks)
