"""What is mistaken for a checkpoint is refused as what it is."""

import json

import numpy as np
import pytest

from tests.interop import wan_transformers
from video_dit import interop

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n"
_WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
  wan_transformers.write(tmp_path)
  return tmp_path


@pytest.mark.parametrize("name", [_WEIGHTS, f"{_WEIGHTS}.index.json", "config.json"])
@pytest.mark.parametrize(
  ("content", "told"),
  [
    (_POINTER, r"is a pointer of git-lfs, .*`git lfs pull`"),
    (b"<!DOCTYPE html><html>404", r"is a web page, not the file"),
    (b"\xef\xbb\xbf \n<HTML lang=en>", r"is a web page, not the file"),
  ],
)
def test_a_file_that_was_not_fetched(name, content, told, folder):
  (folder / name).write_bytes(content)
  with pytest.raises(ValueError, match=rf"{name}: {told}"):
    interop.load(folder)


def test_a_pickled_file_that_was_not_fetched(tmp_path):
  (tmp_path / "a.pth").write_bytes(_POINTER)
  with pytest.raises(ValueError, match=r"a\.pth: is a pointer of git-lfs"):
    interop.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
  "name",
  [
    "blocks.0.attn1.to_q.lora_A.weight",
    "blocks.0.attn1.to_q.lora_B.default.weight",
    "lora_unet_blocks_0_self_attn_q.lora_down.weight",
    "transformer.blocks.0.attn1.to_q.lora.up.weight",
    "blocks.0.attn1.to_q.lokr_w1",
  ],
)
def test_low_rank_changes(name, tmp_path):
  wan_transformers.write(tmp_path, **{name: np.zeros((3, 42), np.float32)})
  with pytest.raises(ValueError, match=rf"LoRA \({name}\).*Merge them"):
    interop.load(tmp_path)


@pytest.mark.parametrize(
  ("name", "dtype"),
  [
    ("scaled_fp8", np.float32),
    ("blocks.0.attn1.to_q.scale_weight", np.float32),
    ("blocks.0.attn1.to_q.weight_scale", np.float32),
    ("blocks.0.attn1.to_q.SCB", np.float32),
    ("blocks.0.attn1.to_q.weight.absmax", np.float32),
    ("blocks.0.attn1.to_q.weight", np.int8),
    ("blocks.0.attn1.to_q.weight", np.uint8),
  ],
)
def test_quantised_weights(name, dtype, tmp_path):
  wan_transformers.write(tmp_path, **{name: np.zeros((42, 42), dtype)})
  kind = np.dtype(dtype)
  with pytest.raises(ValueError, match=rf"quantised weights \({name}, {kind}\).*Dequ"):
    interop.load(tmp_path)


def test_an_index_that_leaves_a_tensor_out(tmp_path):
  wan_transformers.write(tmp_path, shard_bytes=30_000)
  path = tmp_path / f"{_WEIGHTS}.index.json"
  index = json.loads(path.read_text())
  name = "blocks.0.attn1.to_q.weight"
  shard = index["weight_map"].pop(name)
  path.write_text(json.dumps(index))
  told = rf"index\.json: leaves out 1 tensors .*\({name} in {shard}\)"
  with pytest.raises(ValueError, match=told):
    interop.load(tmp_path)
