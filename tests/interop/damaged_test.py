"""What is damaged in a checkpoint's files is one error that names it."""

import json
import os
import struct

import pytest

from tests.interop import encoders
from video_dit import interop

_NAME = "shared.weight"
_NORMS = ("encoder.block.0.layer.0.layer_norm.weight", "encoder.final_layer_norm.weight")


@pytest.fixture
def folder(tmp_path):
  encoders.write(tmp_path, encoders.CONFIG, "umt5")
  return tmp_path


def _header(path):
  content = path.read_bytes()
  length = struct.unpack("<Q", content[:8])[0]
  return json.loads(content[8 : 8 + length]), content[8 + length :]


def _put(path, text, data):
  text = text if isinstance(text, bytes) else json.dumps(text).encode()
  path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"dtype": ["F32"]}, r"dtype \['F32'\]; supported are F64"),
    ({"shape": [36.9, 20]}, r"\[36\.9, 20\], and must be non-negative integers"),
    ({"shape": [float("inf"), 20]}, r"its shape is \[inf, 20\]"),
    ({"shape": "ab"}, r"its shape is 'ab'"),
    ({"data_offsets": [0, float("inf")]}, r"its data_offsets is \[0, inf\]"),
    ({"data_offsets": [-8, 2952]}, r"data_offsets is \[-8, 2952\].* non-negative"),
    ({"data_offsets": [0, 1, 2]}, r"data_offsets \[0, 1, 2\].*start and an end"),
  ],
)
def test_an_entry_that_is_nonsense(change, told, folder):
  path = folder / "model.safetensors"
  header, data = _header(path)
  header[_NAME] |= change
  _put(path, header, data)
  with pytest.raises(ValueError, match=rf"model.safetensors: .*{_NAME}.*{told}"):
    interop.load(folder)


@pytest.mark.parametrize(
  "text",
  [b"[1]", b'{"a": ' + b"9" * 5000 + b"}", b'{"a":' + b"[" * 100_000, b"\xff\xfe{}"],
  ids=["list", "digits", "deep", "bytes"],
)
def test_a_header_that_is_no_object(text, folder):
  _put(folder / "model.safetensors", text, b"")
  with pytest.raises(
    ValueError, match=r"model.safetensors: its header is not a JSON object"
  ):
    interop.load(folder)


def test_tensors_that_overlap_or_leave_gaps(folder):
  path = folder / "model.safetensors"
  header, data = _header(path)
  first, second = (header[name]["data_offsets"] for name in _NORMS)
  header[_NORMS[1]]["data_offsets"] = first
  _put(path, header, data)
  with pytest.raises(ValueError, match=r"begins at byte .*tensors must be contiguous"):
    interop.load(folder)
  header[_NORMS[1]]["data_offsets"] = second
  later = {
    name: entry | {"data_offsets": [place + 4 for place in entry["data_offsets"]]}
    for name, entry in header.items()
    if name != "__metadata__" and entry["data_offsets"][0] >= second[0]
  }
  gap = data[: second[0]] + b"1234" + data[second[0] :]
  _put(path, header | later, gap)
  with pytest.raises(ValueError, match=r"begins at byte .*tensors must be contiguous"):
    interop.load(folder)
  _put(path, header, data + b"1234")
  with pytest.raises(ValueError, match=r"its last tensor ends at byte"):
    interop.load(folder)


@pytest.mark.parametrize("files", [{"a": 1}, {"a": None}, {"a": ["b"]}, {}, ["a"]])
def test_an_index_that_names_no_files(files, folder):
  (folder / "model.safetensors").unlink()
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": files}))
  with pytest.raises(ValueError, match=r"json: not an index of shards.*Copy it again"):
    interop.load(folder)
  index.write_text('{"weight_map":' + "[" * 100_000)
  with pytest.raises(ValueError, match=r"index.json: not an index of shards"):
    interop.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_to_nothing(name, folder):
  """A cache's snapshot that was copied without its blobs."""
  (folder / name).unlink()
  os.symlink("../../blobs/abc", folder / name)
  told = rf"{name}: is a link to \.\./\.\./blobs/abc, which does not exist.*cp -rL"
  with pytest.raises(ValueError, match=told):
    interop.load(folder)
  if name != "config.json":
    with pytest.raises(ValueError, match=told):
      interop.load(folder / name)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ValueError, match=rf"{name}: is a folder, where a file"):
      interop.load(folder)


def test_a_link_among_shards(folder):
  (folder / "model.safetensors").unlink()
  os.symlink("../../blobs/abc", folder / "a.safetensors")
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
  with pytest.raises(ValueError, match=r"a.safetensors: is a link to"):
    interop.load(folder)


def test_a_config_that_is_too_deep(folder):
  (folder / "config.json").write_text('{"a":' + "[" * 100_000)
  with pytest.raises(ValueError, match=r"config.json: is not JSON .*Copy it again"):
    interop.load(folder)
