"""Single values of a `config.json`, checked."""

import pathlib
import sys
from typing import Any

_REMEDY = "Put the config.json that belongs to these weights beside them."


def whole(where: pathlib.Path, key: str, value: Any, *, least: int = 1) -> int:
  """A whole number.

  Raises:
    ValueError: it is not one, or is less than `least`.
  """
  if type(value) is not int or value < least:
    rule = f"must be a whole number, {least} or more"
    raise ValueError(f"{where}: {key}={value!r} {rule}. {_REMEDY}")
  return value


def positive(where: pathlib.Path, key: str, value: Any) -> float:
  """A number above 0.

  Raises:
    ValueError: it is not a number, or not above 0.
  """
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not 0 < value <= sys.float_info.max:
    raise ValueError(f"{where}: {key}={value!r} must be a number above 0. {_REMEDY}")
  return value
