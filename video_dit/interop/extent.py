"""Where one tensor lies in a file."""

import dataclasses
import math
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Extent:
  """A tensor's place in a file.

  Attributes:
    path: of the file.
    offset: of the first element, in bytes.
    shape: of the tensor.
    dtype: of its elements, little-endian.
    strides: in elements; None is row-major.
  """

  path: pathlib.Path
  offset: int
  shape: tuple[int, ...]
  dtype: np.dtype
  strides: tuple[int, ...] | None = None

  @property
  def span(self) -> int:
    """Bytes from the first element to the end of the last."""
    if 0 in self.shape:
      return 0
    if self.strides is None:
      return math.prod(self.shape) * self.dtype.itemsize
    steps = zip(self.shape, self.strides, strict=True)
    return (1 + sum((n - 1) * step for n, step in steps)) * self.dtype.itemsize

  def read(self) -> np.ndarray:
    """The tensor, memory-mapped and read-only.

    Raises:
      ValueError: the file was removed or has become shorter.
    """
    if not self.span:
      return np.zeros(self.shape, self.dtype)
    try:
      flat = np.memmap(self.path, np.uint8, "r", self.offset, (self.span,))
    except (OSError, ValueError) as e:
      raise ValueError(f"{self.path}: can no longer be read ({e}).") from e
    elements = flat.view(self.dtype)
    if self.strides is None:
      return elements.reshape(self.shape)
    strides = tuple(step * self.dtype.itemsize for step in self.strides)
    return np.lib.stride_tricks.as_strided(elements, self.shape, strides, writeable=False)
