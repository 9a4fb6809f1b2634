"""Where torch's files say that their tensors lie, and what they are not believed."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.interop import torch_files
from video_dit.interop import torch_file

_ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def _text(value: str) -> bytes:
  return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _save(path, tensor: bytes):
  """A file of one tensor `a`, by its opcodes, in a storage of 4 float32."""
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", b"\x80\x02}" + _text("a") + tensor + b"s.")
    archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
  return path


def _tensor(offset=b"K\0", shape=b"K\x04\x85", strides=b"K\x01\x85", name=_text("0")):
  storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + name
  storage += _text("cpu") + b"K\x04tQ"
  view = storage + offset + shape + strides
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"


def test_a_tensor_is_where_it_says(tmp_path):
  (extent,) = torch_file.extents(_save(tmp_path / "a.pt", _tensor())).values()
  assert (extent.shape, extent.strides, extent.dtype) == ((4,), (1,), np.float32)
  np.testing.assert_array_equal(extent.read(), [0, 1, 2, 3])
  # A view begins so many of its own elements into the storage.
  _save(tmp_path / "b.pt", _tensor(offset=b"K\x01", shape=b"K\x02\x85"))
  (extent,) = torch_file.extents(tmp_path / "b.pt").values()
  np.testing.assert_array_equal(extent.read(), [1, 2])


def test_storages_that_are_aligned_by_extra_fields_are_found(tmp_path):
  extra = b"FB" + struct.pack("<H", 300) + bytes(300)
  arrays = {"a": _ARRAY, "b": _ARRAY[0] + 9}
  torch_files.save(tmp_path / "a.pt", arrays, extra=extra)
  found = torch_file.extents(tmp_path / "a.pt")
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name].read(), array)


def test_numbers_in_the_order_of_other_machines_are_refused(tmp_path):
  torch_files.save(tmp_path / "a.pt", {"a": _ARRAY}, order="big")
  with pytest.raises(ValueError, match=r"a\.pt: its tensors are big-endian"):
    torch_file.extents(tmp_path / "a.pt")


def test_files_before_zips_are_little_endian_whatever_wrote_them(tmp_path):
  torch_files.save_legacy(tmp_path / "a.pt", {"a": _ARRAY})
  machine = pickle.dumps({"protocol_version": 1001, "little_endian": False}, 2)
  content = (tmp_path / "a.pt").read_bytes().replace(b"\x80\x02}.", machine, 1)
  (tmp_path / "b.pt").write_bytes(content)
  found = torch_file.extents(tmp_path / "b.pt")["a"].read()
  np.testing.assert_array_equal(found, _ARRAY)


def test_a_part_of_a_storage_is_read_from_where_it_begins(tmp_path):
  arrays = {"a": np.arange(4, dtype=np.float32), "b": _ARRAY + 9}
  torch_files.save_legacy(tmp_path / "a.pt", arrays)
  content = (tmp_path / "a.pt").read_bytes()
  # Of the first tensor alone, and its storage is the second one's from element 5 on.
  whole = _text("0") + _text("cpu") + b"J" + struct.pack("<i", 4) + b"N"
  part = b"(" + _text("view") + b"K\x05K\x04t"
  assert content.count(whole) == 1
  other = content.replace(whole, whole.replace(_text("0"), _text("1"))[:-1] + part)
  keys = b"](" + _text("0") + _text("1") + b"e."
  first = struct.pack("<q", 4) + arrays["a"].tobytes()
  assert other.count(keys) == other.count(first) == 1
  other = other.replace(keys, b"](" + _text("1") + b"e.").replace(first, b"")
  (tmp_path / "b.pt").write_bytes(other)
  found = torch_file.extents(tmp_path / "b.pt")
  np.testing.assert_array_equal(found["a"].read(), arrays["b"].ravel()[5:9])
  np.testing.assert_array_equal(found["b"].read(), arrays["b"])
  (tmp_path / "c.pt").write_bytes(other.replace(b"K\x05K\x04t", b"K\x09K\x04t"))
  with pytest.raises(ValueError, match=r"c\.pt: 'a' .* reaches outside its storage"):
    torch_file.extents(tmp_path / "c.pt")
  (tmp_path / "d.pt").write_bytes(other.replace(b"K\x05K\x04t", b"NK\x04t"))
  with pytest.raises(ValueError, match=r"d\.pt: .*a part of a storage from None"):
    torch_file.extents(tmp_path / "d.pt")


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    ({"shape": b"K\x05\x85"}, "reaches outside"),
    ({"offset": b"K\x01"}, "reaches outside"),
    ({"strides": b"K\x02\x85"}, "reaches outside"),
    ({"shape": b"K\x02K\x02\x86"}, "reaches outside"),  # two sizes, one stride
    ({"shape": b"J\xff\xff\xff\xff\x85"}, "reaches outside"),
    ({"strides": b"J\xff\xff\xff\xff\x85"}, "reaches outside"),
    # Terabytes that are one number of the file.
    ({"shape": b"J\xff\xff\xff\x7f\x85", "strides": b"K\0\x85"}, "reaches outside"),
    ({"shape": b"G\x40\x10\0\0\0\0\0\0\x85"}, "not whole numbers"),
    ({"offset": b"N"}, "not whole numbers"),
    ({"offset": b"\x8a\x09" + bytes(8) + b"\x01"}, "not whole numbers"),
    ({"shape": b"(" + b"K\x01" * 65 + b"t"}, "more than 64 dimensions"),
    ({"name": b"K\x01"}, "has a storage of"),
    ({"name": _text("7")}, "storage of 'a' is missing"),
  ],
)
def test_sizes_that_cannot_be_are_refused(fields, told, tmp_path):
  with pytest.raises(ValueError, match=rf"a\.pt: .*{told}"):
    torch_file.extents(_save(tmp_path / "a.pt", _tensor(**fields)))


def test_a_repeated_row_is_read(tmp_path):
  tensor = _tensor(shape=b"K\x64K\x04\x86", strides=b"K\0K\x01\x86")
  path = _save(tmp_path / "a.pt", tensor)
  assert torch_file.extents(path)["a"].read().shape == (100, 4)


def _save_tree(path, tree):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(tree, 2))
  return path


def test_dictionaries_that_share_one_another_are_not_walked_for_ever(tmp_path):
  tree = {"leaf": 1}
  for _ in range(7):
    tree = {f"k{i}": tree for i in range(60)}
  path = _save_tree(tmp_path / "a.pt", tree)
  assert path.stat().st_size < 10_000
  with pytest.raises(ValueError, match=r"a\.pt: .*more than 1,048,576 entries"):
    torch_file.extents(path)


def test_a_dictionary_may_lie_in_two_others(tmp_path):
  inner = _text("model_ema") + b"}q\x01" + _text("a") + _tensor() + b"s" + b"s"
  again = _text("ema") + b"h\x01" + b"s"
  with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
    archive.writestr("archive/data.pkl", b"\x80\x02}" + inner + again + b".")
    archive.writestr("archive/data/0", bytes(16))
  assert set(torch_file.extents(tmp_path / "a.pt")) == {"model_ema.a", "ema.a"}


def _dictionary(key, *, holds=b""):
  return _text(key) + b"}" + (holds and _text("a") + holds + b"s") + b"s"


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
@pytest.mark.parametrize(
  "beside",
  [
    b"",
    _text("epoch") + b"K\x03s",
    _dictionary("hyper_parameters"),
    _dictionary("optimizer", holds=_tensor()),
    _dictionary("optim_state_dict", holds=_tensor()),
  ],
)
def test_what_a_training_script_saved_is_its_model(key, beside, tmp_path):
  pickled = b"\x80\x02}" + beside + _dictionary(key, holds=_tensor()) + b"."
  path = _save_pickle(tmp_path / "a.pt", pickled)
  assert set(torch_file.extents(path)) == {"a"}


@pytest.mark.parametrize("beside", ["ema", "module"])
def test_several_models_in_a_file_are_refused(beside, tmp_path):
  both = (_dictionary(key, holds=_tensor()) for key in ("model", beside))
  path = _save_pickle(tmp_path / "a.pt", b"\x80\x02}" + b"".join(both) + b".")
  told = rf"a\.pt: holds several dict.* \('model', '{beside}'\)\. .*\(file\)\['model'\]"
  with pytest.raises(ValueError, match=told):
    torch_file.extents(path)


def _save_pickle(path, pickled):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickled)
    archive.writestr("archive/data/0", bytes(16))
  return path


def test_long_and_equal_names_are_refused(tmp_path):
  with pytest.raises(ValueError, match="a name has more than 512 characters"):
    torch_file.extents(_save_tree(tmp_path / "a.pt", {"a" * 600: {}}))
  assert torch_file.extents(_save_tree(tmp_path / "b.pt", {"a" * 600: "setting"})) == {}
  inner = _text("b") + b"}" + _text("c") + _tensor() + b"ss" + _text("b.c") + _tensor()
  with pytest.raises(ValueError, match=r"two tensors named 'b\.c'"):
    torch_file.extents(_save(tmp_path / "c.pt", _tensor() + b"s" + inner))


def test_a_list_of_storages_that_is_none_is_refused(tmp_path):
  torch_files.save_legacy(tmp_path / "a.pt", {"a": _ARRAY})
  content = (tmp_path / "a.pt").read_bytes()
  keys = b"](" + _text("0") + b"e."
  for other in (b"N.", b"](K\x01e.", b"](" + _text("1") + b"e."):
    (tmp_path / "b.pt").write_bytes(content.replace(keys, other))
    with pytest.raises(ValueError, match=r"b\.pt: truncated at its storages"):
      torch_file.extents(tmp_path / "b.pt")
