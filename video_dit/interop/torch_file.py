"""What `torch.save` writes, read without torch and without running anything in it.

Since torch 1.6 the file is a zip: a pickle that describes the tensors, and one plain
entry for each storage. Before, the pickles and storages followed one another. Both are
read; of the pickle, only what `pickles` admits.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import math
import pathlib
import reprlib
from typing import Any
import zipfile

import ml_dtypes
import numpy as np

from video_dit.interop import pickles
from video_dit.interop.extent import Extent

_DTYPES = {
  **{"Double": "<f8", "Float": "<f4", "Half": "<f2", "Bool": "?"},
  **{"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1"},
  "BFloat16": ml_dtypes.bfloat16,
  "Float8_e4m3fn": ml_dtypes.float8_e4m3fn,
  "Float8_e5m2": ml_dtypes.float8_e5m2,
}
_STORAGES = {f"{name}Storage": np.dtype(dtype) for name, dtype in _DTYPES.items()}
_STORAGES["UntypedStorage"] = np.dtype("u1")
_TORCH_DTYPES = {
  **{"float64": "<f8", "float32": "<f4", "float16": "<f2", "bool": "?"},
  **{"int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1"},
  **{"uint16": "<u2", "uint32": "<u4", "uint64": "<u8"},
  "bfloat16": ml_dtypes.bfloat16,
  "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
  "float8_e5m2": ml_dtypes.float8_e5m2,
}
_LONGEST_PICKLE = 1 << 28
_DEEPEST = 8
# Where training scripts keep the weights beside what else they save.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_MOST_ENTRIES, _LONGEST_NAME = 1 << 20, 512  # of all dictionaries; of a tensor
_MOST_DIMENSIONS = 64  # as in numpy
_MOST_REPEATED = 1 << 26  # bytes of a tensor that is larger than its storage
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6
_REMEDY = "Copy the file again."


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A run of elements, named by the pickle, stored elsewhere in the file.

  Attributes:
    key: by which what is stored is found.
    dtype: of the elements.
    count: of the elements.
    first: of the elements, where the run is a part of what is stored.
  """

  key: str
  dtype: np.dtype
  count: int
  first: int = 0


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  dtype: np.dtype


def looks_like(path: pathlib.Path) -> bool:
  """Whether a file begins like one of torch's."""
  with path.open("rb") as file:
    start = file.read(4)
  return start == b"PK\x03\x04" or start[:2] == b"\x80\x02"


def extents(path: pathlib.Path) -> dict[str, Extent]:
  """Where each tensor of a file lies; tensors of nested dictionaries get dotted names.

  The dictionary in which a training script keeps the weights is taken for the whole, if
  it is the only one with tensors beside the optimiser's.

  Raises:
    ValueError: the file is damaged, or its pickle holds anything but tensors, plain
      values and the settings beside them.
  """
  if zipfile.is_zipfile(path):
    tree, places = _zipped(path)
  else:
    tree, places = _chained(path)
  if not isinstance(tree, dict):
    raise ValueError(
      f"{path}: holds a {type(tree).__name__} instead of a dictionary of tensors."
    )
  found = {}
  tree = _unwrapped(tree, path)
  for name, tensor in _flatten(tree, path, itertools.count(1)):
    if name in found:
      raise ValueError(f"{path}: has two tensors named {name!r}.")
    found[name] = _place(path, name, tensor, places)
  return found


def _unwrapped(tree: dict, path: pathlib.Path) -> dict:
  """The dictionary of the model's tensors in what a training script saved."""
  seen = itertools.count(1)
  while not any(isinstance(value, _Tensor) for value in tree.values()):
    inside = [
      key
      for key, value in tree.items()
      if isinstance(value, dict) and not str(key).startswith("optim")
      if next(_flatten(value, path, seen), None)
    ]
    if not any(key in _WRAPPERS for key in inside):
      return tree
    if len(inside) > 1:
      raise ValueError(
        f"{path}: holds several dictionaries of tensors"
        f" ({', '.join(map(reprlib.repr, inside[:8]))}). Save the model's alone, by its"
        f" key, as in torch.save(torch.load(file)[{inside[0]!r}], other_file)."
      )
    tree = tree[inside[0]]
  return tree


def _place(path: pathlib.Path, name: str, tensor: _Tensor, places) -> Extent:
  """Lays a view over its storage, and checks that it stays inside."""
  storage, size = tensor.storage, tensor.dtype.itemsize
  if storage.key not in places:
    raise ValueError(f"{path}: the storage of {name!r} is missing. {_REMEDY}")
  start, length = places[storage.key]
  strides = tuple(tensor.strides)
  first = storage.first * storage.dtype.itemsize + tensor.offset * size
  extent = Extent(path, start + first, tensor.shape, tensor.dtype, strides)
  sound = len(strides) == len(tensor.shape) and min((*strides, *tensor.shape, 0)) == 0
  most = max(length, _MOST_REPEATED)
  sound = sound and tensor.offset >= 0 and math.prod(tensor.shape) * size <= most
  if not sound or first + extent.span > length:
    raise ValueError(
      f"{path}: {name!r} of shape {tensor.shape} reaches outside its storage of"
      f" {length:,} bytes. The file is corrupt or malicious; refusing to read it."
    )
  return extent


def _flatten(
  tree: Any, path: pathlib.Path, seen: Iterator[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, _Tensor]]:
  """Tensors by dotted name; `seen` counts, as one dictionary may lie in many others."""
  for key, value in tree.items():
    wrong = ""
    if depth > _DEEPEST:
      wrong = f"dictionaries are nested more than {_DEEPEST} deep"
    elif next(seen) > _MOST_ENTRIES:
      wrong = f"its dictionaries have more than {_MOST_ENTRIES:,} entries"
    elif isinstance(value, (_Tensor, dict)) and len(f"{prefix}{key}") > _LONGEST_NAME:
      wrong = f"a name has more than {_LONGEST_NAME} characters"
    if wrong:
      raise ValueError(
        f"{path}: {wrong}. The file is corrupt or malicious; refusing to read it."
      )
    if isinstance(value, _Tensor):
      yield f"{prefix}{key}", value
    elif isinstance(value, dict):
      yield from _flatten(value, path, seen, f"{prefix}{key}.", depth + 1)


def _zipped(path: pathlib.Path) -> tuple[Any, dict[str, tuple[int, int]]]:
  """The pickle of a zip, and where its storages lie."""
  try:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
      entries = {i.filename: i for i in archive.infolist()}
      pickle = [n for n in entries if n.rpartition("/")[2] == "data.pkl"]
      if len(pickle) != 1:
        raise ValueError(f"{path}: a zip without `data.pkl` is not a file of torch.save.")
      root = pickle[0].removesuffix("data.pkl")
      for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED:
          raise ValueError(f"{path}: {name} is compressed, which torch never does.")
        if entry.flag_bits & 1:
          raise ValueError(f"{path}: {name} is encrypted, which torch never does.")
      if entries[pickle[0]].file_size > _LONGEST_PICKLE:
        raise ValueError(
          f"{path}: its pickle has {entries[pickle[0]].file_size:,} bytes, more than"
          f" the limit of {_LONGEST_PICKLE:,}."
        )
      order = f"{root}byteorder"
      if order in entries and archive.read(order) != b"little":
        raise ValueError(f"{path}: its tensors are big-endian, which is not supported.")
      text = archive.read(pickle[0])
      places = {}
      for name, entry in entries.items():
        if not name.startswith(f"{root}data/"):
          continue
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)
        skip = int.from_bytes(lengths[:2], "little") + int.from_bytes(
          lengths[2:], "little"
        )
        start = entry.header_offset + 30 + skip
        if start + entry.file_size > path.stat().st_size:
          raise ValueError(f"{path}: {name} reaches beyond the file. {_REMEDY}")
        places[name.removeprefix(f"{root}data/")] = (start, entry.file_size)
  except PermissionError:
    raise  # names the file itself, and is not damage
  except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as e:
    raise ValueError(f"{path}: a damaged zip ({e}). {_REMEDY}") from e
  tree, _ = pickles.load(text, 0, path, _ADMITTED, _storage)
  return tree, places


def _chained(path: pathlib.Path) -> tuple[Any, dict[str, tuple[int, int]]]:
  """The pickles of a file from before torch 1.6, and where the storages behind lie.

  The storages are little-endian on any machine; what the third pickle says of the
  machine's own order is not about them.
  """
  size = path.stat().st_size
  with path.open("rb") as file:
    # The storages are not read: the pickles lie before them.
    text = file.read(_LONGEST_PICKLE)
  if text[:2] != b"\x80\x02":
    raise ValueError(
      f"{path}: neither a zip nor a pickle of torch.save: truncated, or another format."
      f" {_REMEDY}"
    )
  values, at = [], 0
  storages: dict[str, _Storage] = {}

  def storage(key) -> _Storage:
    made = _storage(key)
    storages.setdefault(made.key, made)
    return made

  for _ in range(5):  # magic number, version, machine, the tensors, keys of storages
    value, at = pickles.load(text, at, path, _ADMITTED, storage)
    values.append(value)
    if values[0] != _MAGIC:
      raise ValueError(f"{path}: not written by torch.save; refusing to read it.")
  places = {}
  for key in values[4] if isinstance(values[4], list) else [None]:
    if not isinstance(key, str) or key not in storages or at + 8 > size:
      raise ValueError(f"{path}: truncated at its storages. {_REMEDY}")
    with path.open("rb") as file:
      file.seek(at)
      count = int.from_bytes(file.read(8), "little")
    length = count * storages[key].dtype.itemsize
    if at + 8 + length > size:
      raise ValueError(f"{path}: truncated at storage {key!r}. {_REMEDY}")
    places[key] = (at + 8, length)
    at += 8 + length
  return values[3], places


def _storage(key: Any) -> _Storage:
  """The storage that a persistent id of the pickle names."""
  if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
    raise ValueError(f"refers to {reprlib.repr(key)}, which is not a storage")
  _, kind, name, _, count, *part = key
  if not (isinstance(kind, np.dtype) and isinstance(name, str)):
    raise ValueError(f"has a storage of {reprlib.repr(kind)}")
  first = 0
  if part and part[0] is not None:  # a part of the storage, of the earliest versions
    _, first, count = part[0]
    if not (type(first) is int and 0 <= first < 1 << 63):
      raise ValueError(f"has a part of a storage from {reprlib.repr(first)}")
  return _Storage(name, kind, int(count), first)


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
  return _typed_tensor(storage, offset, shape, strides, None, None, storage.dtype)


def _typed_tensor(storage, offset, shape, strides, _grad, _hooks, dtype, *_) -> _Tensor:
  if max(len(shape), len(strides)) > _MOST_DIMENSIONS:
    raise ValueError(f"has a tensor of more than {_MOST_DIMENSIONS} dimensions")
  shape, strides = tuple(shape), tuple(strides)
  numbers = (offset, *shape, *strides)
  if not all(type(x) is int and x.bit_length() < 64 for x in numbers):
    raise ValueError("has a tensor whose sizes are not whole numbers")
  if not (isinstance(storage, _Storage) and isinstance(dtype, np.dtype)):
    raise ValueError("has a tensor without storage or type")
  return _Tensor(storage, offset, shape, strides, dtype)


def _settings(*_) -> dict:
  """Settings of a training script: a plain dictionary, never the class."""
  return {}


_ADMITTED: dict[str, Any] = {
  "collections.OrderedDict": lambda *_: {},
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_tensor_v3": _typed_tensor,
  "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
  "torch.Size": lambda shape=(), *_: tuple(shape),
  "torch.device": lambda *_: "device",
  "argparse.Namespace": _settings,
  **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
  "torch.storage.UntypedStorage": _STORAGES["UntypedStorage"],
  **{f"torch.{name}": np.dtype(dtype) for name, dtype in _TORCH_DTYPES.items()},
}
