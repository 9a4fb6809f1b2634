"""Tensors come out of every format as they are, and damage is named."""

import json
import pickle
import shutil
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from tests.interop import torch_files
from video_dit.interop import safetensors_file
from video_dit.interop.safetensors_file import Outgoing
from video_dit.interop.tensors import open_tensors

_RNG = np.random.default_rng(0)
ARRAYS = {
  "a.weight": _RNG.normal(size=(3, 5)).astype(np.float32),
  "a.bias": _RNG.normal(size=(7,)).astype(jnp.bfloat16),
  "b.half": _RNG.normal(size=(2, 1, 3)).astype(np.float16),
  "b.turned": np.asfortranarray(_RNG.normal(size=(4, 6)).astype(np.float32)),
  "c.steps": np.array(3),
}


def _equal(tensors, arrays):
  assert set(tensors.names) == set(arrays)
  for name, array in arrays.items():
    info = tensors.names[name]
    assert (info.shape, info.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(tensors.read(name), array)


def _outgoing(arrays):
  return {n: Outgoing(a.shape, a.dtype, lambda a=a: a) for n, a in arrays.items()}


def _save(path, arrays):
  safetensors_file.write(path, _outgoing(arrays))


@pytest.mark.parametrize("write", [_save, torch_files.save, torch_files.save_legacy])
def test_what_is_read_is_what_was_written(write, tmp_path):
  name = "model.safetensors" if write is _save else "pytorch_model.bin"
  write(tmp_path / name, ARRAYS)
  for path in (tmp_path, tmp_path / name):
    _equal(open_tensors(path), ARRAYS)


def test_the_library_reads_what_is_written_here_and_back(tmp_path):
  _save(tmp_path / "ours.safetensors", ARRAYS)
  with safetensors.safe_open(tmp_path / "ours.safetensors", "numpy") as file:
    assert file.metadata() == {"format": "pt"}
    for name, array in ARRAYS.items():
      np.testing.assert_array_equal(file.get_tensor(name), array)
  theirs = {n: np.asarray(a, order="C") for n, a in ARRAYS.items()}
  safetensors.numpy.save_file(theirs, tmp_path / "theirs.safetensors")
  _equal(open_tensors(tmp_path / "theirs.safetensors"), ARRAYS)


def test_a_folder_is_read_by_its_usual_name_and_safely(tmp_path):
  _save(tmp_path / "model.safetensors", ARRAYS)
  other = {"a.weight": ARRAYS["a.weight"]}
  for name in ("model.fp16.safetensors", "adapter.safetensors", "._model.safetensors"):
    _save(tmp_path / name, other)
  torch_files.save(tmp_path / "pytorch_model.bin", other)
  _equal(open_tensors(tmp_path), ARRAYS)
  (tmp_path / "model.safetensors").unlink()
  with pytest.raises(ValueError, match=r"several checkpoints .*adapter.safetensors"):
    open_tensors(tmp_path)


@pytest.fixture
def sharded(tmp_path):
  safetensors_file.write_safetensors(tmp_path, _outgoing(ARRAYS), None, shard_bytes=100)
  return tmp_path


def test_shards_are_one_checkpoint(sharded):
  assert len(list(sharded.glob("*.safetensors"))) > 2
  _equal(open_tensors(sharded), ARRAYS)
  _equal(open_tensors(sharded / "model.safetensors.index.json"), ARRAYS)
  (sharded / "model.safetensors.index.json").unlink()
  _equal(open_tensors(sharded), ARRAYS)


@pytest.mark.parametrize("shard_bytes", [10**6, 150])
def test_an_older_checkpoint_leaves_nothing(shard_bytes, sharded):
  """Of the stem that is written: readers would go by its index."""
  _save(sharded / "other.safetensors", ARRAYS)
  new = {name: array + 1 for name, array in ARRAYS.items()}
  files = safetensors_file.write_safetensors(
    sharded, _outgoing(new), {}, shard_bytes=shard_bytes
  )
  _equal(open_tensors(sharded), new)
  index = {"model.safetensors.index.json"} if len(files) > 1 else set()
  written = {file.name for file in files} | index
  assert {p.name for p in sharded.iterdir()} == written | {
    *("config.json", "other.safetensors")
  }
  older = safetensors_file.write_safetensors(sharded, _outgoing(ARRAYS), {})
  assert [file.name for file in older] == ["model.safetensors"]
  _equal(open_tensors(sharded), ARRAYS)


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path):
  path = tmp_path / "model.safetensors"
  _save(path, ARRAYS)
  before = path.read_bytes()
  broken = _outgoing(ARRAYS)
  last = sorted(broken)[-1]
  broken[last] = Outgoing(broken[last].shape, broken[last].dtype, lambda: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    safetensors_file.write(path, broken)
  assert path.read_bytes() == before


def test_weights_without_a_config_do_not_get_that_of_others(tmp_path):
  safetensors_file.write_safetensors(tmp_path, _outgoing(ARRAYS), {"eps": 1e-3})
  before = sorted(tmp_path.iterdir())
  with pytest.raises(ValueError, match=r"holds a config\.json.* Name a new folder"):
    safetensors_file.write_safetensors(tmp_path, _outgoing(ARRAYS), None, stem="Wan_VAE")
  assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize(
  "name", ["{}.fp16-00001-of-{}.safetensors", "{}-00001-of-{}.fp16.safetensors"]
)
def test_shards_of_a_variant_are_one_checkpoint(name, indexed, tmp_path):
  """As they are named today, and as they were."""
  parts = [dict(list(ARRAYS.items())[i::2]) for i in range(2)]
  map_ = {}
  for i, part in enumerate(parts, 1):
    file = name.format("model", "00002").replace("00001", f"0000{i}")
    _save(tmp_path / file, part)
    map_ |= dict.fromkeys(part, file)
  index = tmp_path / "model.safetensors.index.fp16.json"
  if indexed:
    index.write_text(json.dumps({"weight_map": map_}))
    _equal(open_tensors(index), ARRAYS)
  _equal(open_tensors(tmp_path), ARRAYS)
  # Those of the usual name go before.
  other = {"a.weight": ARRAYS["a.weight"]}
  _save(tmp_path / "model-00001-of-00001.safetensors", other)
  if not indexed:
    _equal(open_tensors(tmp_path), other)


def test_what_is_wrong_with_shards_is_named(sharded):
  index = sharded / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  shard = content["weight_map"]["a.weight"]
  content["weight_map"]["z.weight"] = shard
  index.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=f"not in the shards .*z.weight in {shard}"):
    open_tensors(sharded)
  content["weight_map"]["z.weight"] = "../secret.safetensors"
  index.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=r"names '../secret.safetensors'.*Refused"):
    open_tensors(sharded)
  (sharded / shard).unlink()
  del content["weight_map"]["z.weight"]
  index.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=f"1 of . shards are missing .{shard}"):
    open_tensors(sharded)
  index.unlink()
  with pytest.raises(ValueError, match=f"1 of . shards are missing .{shard}"):
    open_tensors(sharded)
  index.write_text("[]")
  with pytest.raises(ValueError, match="not an index of shards"):
    open_tensors(sharded)


@pytest.mark.parametrize("write", [_save, torch_files.save, torch_files.save_legacy])
def test_a_truncated_file_is_named_wherever_it_ends(write, tmp_path):
  path = tmp_path / ("model.safetensors" if write is _save else "pytorch_model.bin")
  write(path, ARRAYS)
  whole = path.read_bytes()
  for length in (0, 5, 40, len(whole) // 2, len(whole) - 3):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=rf"{path.name}.*(opy|another format)"):
      open_tensors(tmp_path)


@pytest.mark.parametrize(
  ("entry", "told"),
  [
    ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "takes 8 bytes"),
    ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "damaged"),
    ({"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}, "dtype 'F31'"),
    ({"dtype": "F32", "shape": [1]}, "entry of 'a' is damaged"),
    ({"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}, "truncated"),
  ],
)
def test_a_header_that_lies_is_refused(entry, told, tmp_path):
  text = json.dumps({"a": entry}).encode()
  path = tmp_path / "model.safetensors"
  path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
  with pytest.raises(ValueError, match=told):
    open_tensors(path)


_EVIL = b"X\x01\x00\x00\x00xcposix\nsystem\nX\x04\x00\x00\x00exit\x85R"


def test_pickles_run_nothing(tmp_path):
  path = tmp_path / "pytorch_model.bin"
  torch_files.save(path, {"a": ARRAYS["a.weight"]}, more=_EVIL)
  with pytest.raises(ValueError, match=r"names posix.system.*nothing in them is run"):
    open_tensors(tmp_path)
  path.write_bytes(pickle.dumps({"a": 1}))
  with pytest.raises(ValueError, match=r"pytorch_model.bin"):
    open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["builtins\neval", "torch.nn\nLinear", "numpy\nndarray"])
def test_other_classes_are_refused_by_name(name, tmp_path):
  more = b"X\x01\x00\x00\x00x" + f"c{name}\n".encode() + b")R"
  torch_files.save(tmp_path / "a.pt", {"a": ARRAYS["a.weight"]}, more=more)
  with pytest.raises(ValueError, match=name.replace("\n", ".")):
    open_tensors(tmp_path)


def test_a_view_outside_of_its_storage_is_refused(tmp_path):
  array = ARRAYS["a.weight"]
  path = tmp_path / "a.pt"
  torch_files.save(path, {"a": array})
  content = path.read_bytes()
  far = content.replace(struct.pack("<i", 5) + b"J\x01", struct.pack("<i", 9) + b"J\x01")
  assert far != content
  path.write_bytes(far)
  with pytest.raises(ValueError, match=r"reaches outside|damaged"):
    open_tensors(path)


def test_what_lies_in_itself_is_refused(tmp_path):
  more = b"X\x01\x00\x00\x00x}q\x07X\x01\x00\x00\x00xh\x07s"
  torch_files.save(tmp_path / "a.pt", {"a": ARRAYS["a.weight"]}, more=more)
  with pytest.raises(ValueError, match=r"a.pt: dictionaries are nested"):
    open_tensors(tmp_path)
  text = b"[" * 100_000
  (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
  with pytest.raises(ValueError, match=r"a.safetensors: its header is not a JSON object"):
    open_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("packed", ["archive/data.pkl", "archive/data/0"])
def test_what_torch_never_packs_is_refused(packed, tmp_path):
  torch_files.save(tmp_path / "a.pt", {"a": ARRAYS["a.weight"]})
  with (
    zipfile.ZipFile(tmp_path / "a.pt") as plain,
    zipfile.ZipFile(tmp_path / "b.pt", "w") as other,
  ):
    for name in plain.namelist():
      how = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
      other.writestr(name, plain.read(name), how)
  with pytest.raises(ValueError, match=rf"b\.pt: {packed} is compressed"):
    open_tensors(tmp_path / "b.pt")


def test_settings_of_a_training_script_are_left(tmp_path):
  more = b"X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x01sb"
  torch_files.save(tmp_path / "a.pt", {"a": ARRAYS["a.weight"]}, more=more)
  assert list(open_tensors(tmp_path).names) == ["a"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no such file or folder"):
    open_tensors(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="holds no supported weights"):
    open_tensors(tmp_path)
  (tmp_path / "model_index.json").write_text("{}")
  with pytest.raises(ValueError, match="It is a pipeline: name one of its folders"):
    open_tensors(tmp_path)
  for name in ("v1-5.safetensors", "v1-5-ema.safetensors"):
    _save(tmp_path / name, ARRAYS)
    with pytest.raises(
      ValueError, match=rf"{name}.*pipeline: name one .* or the intended file"
    ):
      open_tensors(tmp_path)
  (tmp_path / "model.gguf").write_bytes(b"GGUF")
  with pytest.raises(ValueError, match=r".gguf is not a supported format"):
    open_tensors(tmp_path / "model.gguf")


def test_a_tensor_that_is_not_there_is_named(tmp_path):
  _save(tmp_path / "model.safetensors", ARRAYS)
  tensors = open_tensors(tmp_path)
  with pytest.raises(ValueError, match="no tensor 'z' among its 5"):
    tensors.read("z")
  assert set(tensors.only("a.").names) == {"weight", "bias"}
  shutil.rmtree(tmp_path)
  with pytest.raises(ValueError, match="can no longer be read"):
    tensors.read("a.weight")


def test_torch_files_of_torch_itself(tmp_path):
  torch = pytest.importorskip("torch")
  base = torch.arange(24.0).reshape(4, 6)
  state = {
    "whole": base,
    "view": base[1:3, ::2],
    "turned": base.T,
    "half": base.to(torch.bfloat16),
    "nested": {"parameter": torch.nn.Parameter(base[0])},
    "number": 3,
  }
  for zipped in (True, False):
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    tensors = open_tensors(tmp_path)
    assert set(tensors.names) == {"whole", "view", "turned", "half", "nested.parameter"}
    for name in ("whole", "view", "turned"):
      np.testing.assert_array_equal(tensors.read(name), state[name].numpy())
    np.testing.assert_array_equal(tensors.read("half").astype(np.float32), base.numpy())
    np.testing.assert_array_equal(tensors.read("nested.parameter"), base[0].numpy())
