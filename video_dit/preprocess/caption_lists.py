"""Several captions of one clip, and how often each is used.

In a manifest, `captions` is a list of texts and `caption_weights` one of numbers (in CSV
both as JSON). Beside a file, `clip.json` or `clip.mp4.json` is an object with the same
names, `caption` and its other names included, or a list of texts, or a text; what has
none of them has no captions. Without weights all are used equally; weights are
kept as shares of 1.
"""

from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any

NAMES = ("caption", "text", "prompt", "description")
LIST_NAMES = ("captions", "texts", "prompts")
WEIGHT_NAMES = ("caption_weights", "weights")
_SAY = (*LIST_NAMES, *NAMES)
_MOST = 1024


@dataclasses.dataclass(frozen=True)
class Captions:
  """Texts as given, and the share of each; both of equal length."""

  texts: tuple[Any, ...]
  weights: tuple[float, ...]


def read(row: Mapping[str, Any]) -> Captions | None:
  """The captions of a row of a manifest; None if it has no list of them.

  Raises:
    ValueError: the value is not a list of texts, or the weights do not match it.
  """
  values = next((row[n] for n in LIST_NAMES if row.get(n) not in (None, "", [])), None)
  if values is None:
    return None
  values = _list("captions", values)
  if not all(isinstance(value, str | bytes) for value in values):
    raise ValueError(f"captions={_shown(values)} must be text")
  weights = next((row[n] for n in WEIGHT_NAMES if row.get(n) not in (None, "")), None)
  if weights is None:
    numbers = [1.0] * len(values)
  else:
    numbers = [_number(weight) for weight in _list("caption_weights", weights)]
  if len(numbers) != len(values):
    raise ValueError(
      f"caption_weights has {len(numbers)} numbers for {len(values)} captions; give one"
      " for each"
    )
  if sum(numbers) == math.inf:
    numbers = [number / max(numbers) for number in numbers]
  pairs = [(v, n) for v, n in zip(values, numbers, strict=True) if v.strip() and n > 0]
  total = sum(number for _, number in pairs)
  if values and not pairs and any(value.strip() for value in values):
    raise ValueError("caption_weights are all 0; at least one must be above 0")
  return Captions(
    tuple(value for value, _ in pairs), tuple(number / total for _, number in pairs)
  )


def parse(data: bytes) -> dict[str, Any] | None:
  """The captions of a `.json` file beside a media file, as a row of a manifest has them.

  Returns:
    None if there are none.

  Raises:
    ValueError: it is not JSON.
  """
  try:
    found = json.loads(data.decode("utf-8-sig", "surrogateescape"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"is not JSON ({error})") from error
  if isinstance(found, str):
    found = {"caption": found}
  elif isinstance(found, list) and all(isinstance(text, str) for text in found):
    found = {"captions": found}
  elif not isinstance(found, dict):
    return None
  row = plain(found)
  return row if any(row.get(n) not in (None, "", []) for n in _SAY) else None


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
  """The row with normalized names: lower case, no surrounding spaces."""
  found = {plain_name(name): value for name, value in row.items()}
  return found | {name: row[name] for name in found if name in row}


def plain_name(name: str) -> str:
  """A normalized name."""
  return name.strip().casefold()


def _list(name: str, value: Any) -> list[Any]:
  if isinstance(value, str):
    try:
      value = json.loads(value)
    except ValueError:
      raise ValueError(f"{name}={_shown(value)} must be a list in JSON") from None
  if not isinstance(value, list | tuple) or len(value) > _MOST:
    raise ValueError(f"{name}={_shown(value)} must be a list of at most {_MOST}")
  return list(value)


def _number(value: Any) -> float:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  try:
    number = float(value) if is_number else math.nan
  except OverflowError:
    number = math.inf
  if not 0 <= number < math.inf:
    raise ValueError(f"caption_weights: {_shown(value)} must be a number, 0 or above")
  return number


def _shown(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:80]}..."
