"""The safetensors format: a JSON header that says where each tensor lies, then bytes.

Read and written here, not with the `safetensors` library, so that one tensor at a time
passes through memory, of whatever dtype, and so that damage is named.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from video_dit import files
from video_dit.interop.extent import Extent

_DTYPES = {
  **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "?"},
  **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
  **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1"},
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2,
}
DTYPES = {name: np.dtype(dtype) for name, dtype in _DTYPES.items()}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SHARD_BYTES = 5_000_000_000
_LONGEST_HEADER = 100_000_000  # as the format's own library has it


@dataclasses.dataclass(frozen=True)
class Outgoing:
  """A tensor to be written: what it is, and how to get it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def bytes(self) -> int:
    """Size on disk."""
    return math.prod(self.shape) * self.dtype.itemsize


def extents(path: pathlib.Path) -> dict[str, Extent]:
  """Where each tensor of a file lies.

  Raises:
    ValueError: the file is not a safetensors file, or is truncated.
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
      raise ValueError(
        f"{path}: its header claims {length:,} bytes in a file of {size:,}: truncated,"
        " or not a safetensors file. Copy it again."
      )
    text = file.read(length)
  try:
    header = json.loads(text)
    if not isinstance(header, dict):
      raise ValueError(f"it is a {type(header).__name__}")
  except (ValueError, RecursionError) as e:
    raise ValueError(
      f"{path}: its header is not a JSON object ({e}): damaged, or not a safetensors"
      " file. Copy it again."
    ) from e
  header.pop("__metadata__", None)
  found = {n: _extent(path, n, e, 8 + length, size) for n, e in header.items()}
  _check_order(path, found, 8 + length, size)
  return found


def _extent(path: pathlib.Path, name: str, entry, start: int, size: int) -> Extent:
  """One entry of a header, checked against the file."""
  entry = entry if isinstance(entry, dict) else {}
  kind, shape, place = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
  for key, value in (("shape", shape), ("data_offsets", place)):
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
      raise ValueError(
        f"{path}: the header's entry of {name!r} is damaged: its {key} is {value!r}, and"
        " must be non-negative integers. Copy the file again."
      )
  if len(place) != 2:
    raise ValueError(
      f"{path}: the header's entry of {name!r} is damaged: its data_offsets {place!r}"
      " must be a start and an end. Copy the file again."
    )
  if not isinstance(kind, str) or kind not in DTYPES:
    raise ValueError(
      f"{path}: {name!r} has dtype {kind!r}; supported are {', '.join(DTYPES)}."
    )
  begin, end = place
  extent = Extent(path, start + begin, tuple(shape), DTYPES[kind])
  if end - begin != extent.span:
    raise ValueError(
      f"{path}: {name!r} of shape {extent.shape} and dtype {kind} takes {extent.span:,}"
      f" bytes, the header gives it {end - begin:,}. The file is damaged: copy it again."
    )
  if start + end > size:
    raise ValueError(
      f"{path}: {name!r} ends at byte {start + end:,} in a file of {size:,}. The file is"
      " truncated: copy it again."
    )
  return extent


def _check_order(
  path: pathlib.Path, found: Mapping[str, Extent], start: int, size: int
) -> None:
  """Refuses gaps and overlaps among tensors, as the format's library does."""
  end = start
  for name, extent in sorted(found.items(), key=lambda x: (x[1].offset, x[1].span)):
    if extent.offset != end:
      raise ValueError(
        f"{path}: {name!r} begins at byte {extent.offset:,}, where the tensor before it"
        f" ends at {end:,}: tensors must be contiguous. The file is damaged: copy it"
        " again."
      )
    end += extent.span
  if end != size:
    raise ValueError(
      f"{path}: its last tensor ends at byte {end:,} in a file of {size:,}. The file is"
      " damaged: copy it again."
    )


def write(path: pathlib.Path, tensors: Mapping[str, Outgoing]) -> None:
  """Writes tensors one after another; a reader sees the old file or the whole new one.

  Raises:
    ValueError: a tensor has a dtype that the format does not support.
  """
  header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers needs it
  end = 0
  # Wider elements first, so that each tensor is aligned to its elements.
  order = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
  for name in order:
    tensor = tensors[name]
    if tensor.dtype not in _NAMES:
      raise ValueError(f"{path}: safetensors has no dtype {tensor.dtype} ({name}).")
    begin, end = end, end + tensor.bytes
    header[name] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with files.replacing(path) as unfinished, unfinished.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
      array = np.asarray(tensors[name].read(), order="C")
      assert array.shape == tensors[name].shape, name
      assert array.dtype == tensors[name].dtype, name
      file.write(array.reshape(-1).view(np.uint8).data)


def write_safetensors(
  folder: pathlib.Path,
  tensors: Mapping[str, Outgoing],
  config: Mapping[str, Any] | None,
  *,
  stem: str = "model",
  shard_bytes: int = _SHARD_BYTES,
) -> list[pathlib.Path]:
  """Writes a folder as the peers do: `config.json`, and one file or shards with an index.

  An older checkpoint under the same stem goes: readers would follow its index.

  Args:
    folder: made where it is missing.
    tensors: by name.
    config: the content of `config.json`; None writes none.
    stem: `model` or `diffusion_pytorch_model`.
    shard_bytes: most bytes of tensors in a file.

  Returns:
    The files with tensors.

  Raises:
    ValueError: no config is to be written, and the folder holds one of another model.
  """
  described = folder / "config.json"
  if config is None and described.exists():
    raise ValueError(
      f"{folder}: holds a config.json, which would be taken for that of these weights:"
      " they are written without one. Name a new folder."
    )
  folder.mkdir(parents=True, exist_ok=True)
  shards: list[list[str]] = [[]]
  room = shard_bytes
  for name, tensor in tensors.items():
    if shards[-1] and tensor.bytes > room:
      shards.append([])
      room = shard_bytes
    shards[-1].append(name)
    room -= tensor.bytes
  total = len(shards)
  files = []
  for i, names in enumerate(shards, 1):
    part = f"-{i:05d}-of-{total:05d}" if total > 1 else ""
    files.append(folder / f"{stem}{part}.safetensors")
    write(files[-1], {name: tensors[name] for name in names})
  index_path = folder / f"{stem}.safetensors.index.json"
  if total > 1:
    parts = zip(shards, files, strict=True)
    index = {
      "metadata": {
        "total_parameters": sum(math.prod(t.shape) for t in tensors.values()),
        "total_size": sum(t.bytes for t in tensors.values()),
      },
      "weight_map": {name: file.name for names, file in parts for name in names},
    }
    _write_json(index_path, index)
  else:
    index_path.unlink(missing_ok=True)
  older = re.compile(re.escape(stem) + r"(-\d{5}-of-\d{5})?\.safetensors")
  for path in folder.iterdir():
    if older.fullmatch(path.name) and path not in files:
      path.unlink()
  if config is not None:
    _write_json(described, dict(config))
  return files


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  files.write(path, json.dumps(content, indent=2, ensure_ascii=False))
