"""Finds damage in a checkpoint before Orbax reads it, whose own errors are very long.

A checkpoint's metadata file says where the run stood; each of its trees is a folder with
a description, a manifest and data, which TensorStore keeps as one key-value store.
"""

from collections.abc import Iterable
import json
import pathlib
import re

import tensorstore

_METADATA = "_CHECKPOINT_METADATA"
_POSITION = ("step", "seed", "data")


def find(folder: pathlib.Path, trees: Iterable[str] = ()) -> str:
  """Says what in a checkpoint is missing or cannot be read; "" where nothing is.

  Args:
    folder: of the checkpoint.
    trees: names of the trees needed; the data of their arrays are not read.
  """
  try:
    found = _json(folder / _METADATA)
    missing = [key for key in _POSITION if key not in (found["custom_metadata"] or {})]
    if missing:
      return f"{_METADATA} does not say the run's {missing[0]}"
    for tree in trees:
      place = folder / tree
      if not place.is_dir():
        return f"the folder {tree} is missing"
      _json(place / "_METADATA")
      for path in (place / "_sharding", *(place / "array_metadatas").glob("*")):
        if path.is_file():
          _json(path)
      _list(place)
  except _Damage as error:
    return str(error)
  except KeyError as error:
    return f"{_METADATA} has no {error}"
  return ""


def explain(error: BaseException) -> str:
  """The file and the reason in what Orbax and TensorStore raise, on one line."""
  texts: list[str] = []
  cause: BaseException | None = error
  while cause is not None and len(texts) < 20:
    texts.append(str(cause))
    cause = cause.__cause__ or cause.__context__
  for text in texts:
    files = list(re.finditer(r'local file \\?"([^"\\]+)\\?"', text))
    if files:  # the last is the one that was read; the first is the store around it
      rest = text[files[-1].end() :].split("[tensorstore_spec")[0]
      reason = rest.partition("[source locations=")[0].strip(" :;,'\"\\")
      return f"{files[-1][1]} ({reason[:200] or 'it is missing'})"
  return " ".join(texts[-1].split())[:300]


class _Damage(Exception):
  """What is wrong, in words."""


def _json(path: pathlib.Path) -> dict:
  name = f"{path.parent.name}/{path.name}"
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError:
    raise _Damage(f"{name} is missing") from None
  except ValueError as error:
    raise _Damage(f"{name} is truncated or not JSON ({error})") from None
  if not isinstance(found, dict):
    raise _Damage(f"{name} has an unexpected type")
  return found


def _list(place: pathlib.Path) -> None:
  """Reads the index of a tree's data, and checks that what it names exists."""
  if not (place / "manifest.ocdbt").is_file():
    raise _Damage(f"{place.name}/manifest.ocdbt is missing")
  base = {"driver": "file", "path": f"{place}/"}
  try:
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    described = [key for key in store.list().result() if key.endswith(b"/zarr.json")]
    for pending in [store.read(key) for key in described]:
      pending.result()
  except ValueError as error:
    raise _Damage(explain(error)) from None
