"""Writes what `torch.save` writes, both of its formats, without torch."""

import pathlib
import struct
import zipfile

import numpy as np

_KINDS = {
  "float32": "FloatStorage",
  "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage",
}
_KINDS["int64"] = "LongStorage"
_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _text(value: str) -> bytes:
  raw = value.encode()
  return b"X" + struct.pack("<I", len(raw)) + raw


def _ints(values) -> bytes:
  return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def _tensor(key: str, array: np.ndarray, legacy: bool) -> bytes:
  count = b"J" + struct.pack("<i", array.size)
  kind = _KINDS[str(array.dtype)].encode()
  storage = b"(" + _text("storage") + b"ctorch\n" + kind + b"\n" + _text(key)
  storage += _text("cpu") + count + (b"N" if legacy else b"") + b"tQ"
  # Matrices are stored transposed, as views.
  strides = [s // array.itemsize for s in array.strides]
  view = storage + b"K\x00" + _ints(array.shape) + _ints(strides) + b"\x89"
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + _ORDERED_DICT + b"tR"


def pickle(arrays: dict[str, np.ndarray], *, legacy: bool = False, more: bytes = b""):
  """A pickled dictionary of tensors; storage i is the i-th array's.

  Args:
    arrays: by name.
    legacy: with the storages' references of the old format.
    more: opcodes of more keys and values.
  """
  items = (
    _text(n) + _tensor(str(i), a, legacy) for i, (n, a) in enumerate(arrays.items())
  )
  return b"\x80\x02}(" + b"".join(items) + more + b"u."


def _bytes(array: np.ndarray) -> bytes:
  order = "F" if array.flags.f_contiguous else "C"
  return array.tobytes(order)


def save(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  more: bytes = b"",
  *,
  order: str = "little",
  extra: bytes = b"",
) -> None:
  """As torch 1.6 and later.

  Args:
    path: of the file.
    arrays: by name.
    more: opcodes of more keys and values.
    order: of the bytes, as the file says it.
    extra: field of each storage's header, by which torch aligns what follows.
  """
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle(arrays, more=more))
    archive.writestr("archive/byteorder", order)
    for i, array in enumerate(arrays.values()):
      entry = zipfile.ZipInfo(f"archive/data/{i}")
      entry.extra = extra
      archive.writestr(entry, _bytes(array))


def save_legacy(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  """As torch before 1.6."""
  magic = b"\x80\x02\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little") + b"."
  version, machine = b"\x80\x02M\xe9\x03.", b"\x80\x02}."
  keys = b"\x80\x02](" + b"".join(_text(str(i)) for i in range(len(arrays))) + b"e."
  content = magic + version + machine + pickle(arrays, legacy=True) + keys
  for array in arrays.values():
    content += struct.pack("<q", array.size) + _bytes(array)
  path.write_bytes(content)
