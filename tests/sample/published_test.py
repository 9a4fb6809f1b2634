"""Sampling from published weights, without a run and without a data set."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import tiny
from tests.interop import encoders, wan_transformers
from video_dit import config as config_lib
from video_dit import interop
from video_dit.generator import generator as generator_lib
from video_dit.generator import request as request_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = wan_transformers.CONFIG | {
  **{"in_channels": 4, "out_channels": 4, "patch_size": [1, 2, 2], "text_dim": 20},
  **{"attention_head_dim": 12, "num_attention_heads": 2, "num_layers": 2},
  **{"ffn_dim": 32, "freq_dim": 16},
}
REQUEST = request_lib.Request(
  prompt="clip clip", height=32, width=24, frames=5, frames_per_second=8.0
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  """A folder laid out like a pipeline of diffusers."""
  folder = tmp_path_factory.mktemp("published")
  wan_transformers.write(folder / "transformer", SIZES)
  encoders.write(folder / "text_encoder", encoders.CONFIG, "umt5")
  encoders.write_tokenizer(folder / "text_encoder")
  tiny.frozen(folder / "vae")
  return folder


@pytest.fixture(scope="module")
def config(pipeline):
  sections = {"dit": "transformer", "text": "text_encoder", "autoencoder": "vae"}
  named = {
    name: dataclasses.replace(
      getattr(tiny.CONFIG, name), checkpoint=str(pipeline / folder)
    )
    for name, folder in sections.items()
  }
  named["dit"] = dataclasses.replace(named["dit"], architecture="wan", rope_side=16.0)
  sample = dataclasses.replace(tiny.CONFIG.sample, sampler="unipc")
  return interop.with_transformer(
    dataclasses.replace(tiny.CONFIG, sample=sample, **named)
  )


def test_clips_are_those_of_the_three_models(config, pipeline):
  mesh = tiny.mesh()
  found = generator_lib.Generator.from_published(config, mesh)
  by_hand = generator_lib.Generator(
    config,
    mesh,
    interop.load(pipeline / "transformer").params,
    interop.autoencoder(pipeline / "vae"),
    interop.text_encoder(config.text, pipeline / "text_encoder"),
  )
  (_, clip), (_, expected) = (next(one.generate([REQUEST])) for one in (found, by_hand))
  assert clip.shape == (5, 32, 24, 3) and clip.std() > 1
  # The one set of weights is spread over the mesh, the other is not.
  assert np.abs(clip.astype(int) - expected).max() <= 1
  laid = jax.tree.leaves(found.params)[0].sharding
  assert laid.device_set == set(mesh.devices.flat) and found.step == 0
  (_, other) = next(found.generate([dataclasses.replace(REQUEST, prompt="clip")]))
  assert (other != clip).any()


def command(pipeline, *flags: str) -> subprocess.CompletedProcess:
  config = pipeline / "tiny.py"
  config.write_text(
    "import json, ml_collections\n"
    f"TREE = json.loads({json.dumps(json.dumps(config_lib.to_dict(tiny.CONFIG)))})\n"
    "def get_config(preset=''):\n"
    "  c = ml_collections.ConfigDict(TREE)\n"
    "  c.dit.architecture, c.dit.rope_side = 'wan', 16.0\n"
    "  return c\n"
  )
  return subprocess.run(
    [sys.executable, "-m", "video_dit.sample", f"--config={config}", *flags],
    cwd=ROOT,
    env=os.environ | tiny.environment(),
    capture_output=True,
    text=True,
    check=False,
  )


def named(pipeline) -> list[str]:
  return [
    f"--config.dit.checkpoint={pipeline / 'transformer'}",
    f"--config.text.checkpoint={pipeline / 'text_encoder'}",
    f"--config.autoencoder.checkpoint={pipeline / 'vae'}",
  ]


def test_the_command_needs_no_run(pipeline, tmp_path):
  done = command(
    pipeline, *named(pipeline), f"--output={tmp_path}", "--prompt=clip", "--mesh=cpu:2"
  )
  assert done.returncode == 0, done.stderr
  (line,) = (tmp_path / "samples.jsonl").read_text().splitlines()
  assert (tmp_path / json.loads(line)["file"]).is_file()
  assert json.loads(line)["checkpoint"] == 0
  assert "published" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"autoencoder": ""}, "config.autoencoder.checkpoint is empty"),
    ({"text": ""}, "config.text.checkpoint is empty"),
    ({"vae": 6}, "takes latents of 4 channels"),
    ({"umt5": 24}, "takes captions encoded 20 wide"),
  ],
)
def test_what_is_missing_or_does_not_fit_is_refused_before_weights_are_read(
  config, change, told, monkeypatch, tmp_path
):
  monkeypatch.setattr(interop, "autoencoder", None)
  monkeypatch.setattr(interop, "text_encoder", None)
  if "vae" in change:
    arch = dataclasses.replace(tiny.CONFIG.autoencoder, channels=change["vae"])
    monkeypatch.setattr(
      tiny, "CONFIG", dataclasses.replace(tiny.CONFIG, autoencoder=arch)
    )
    tiny.frozen(tmp_path / "vae")
    change = {"autoencoder": str(tmp_path / "vae")}
  if "umt5" in change:
    sizes = encoders.CONFIG | {"d_model": change["umt5"]}
    encoders.write(tmp_path / "umt5", sizes, "umt5")
    change = {"text": str(tmp_path / "umt5")}
  for section, path in change.items():
    other = dataclasses.replace(getattr(config, section), checkpoint=path)
    config = dataclasses.replace(config, **{section: other})
  with pytest.raises(ValueError, match=told):
    generator_lib.Generator.from_published(config, tiny.mesh())


def test_the_output_must_be_named(pipeline):
  done = command(pipeline, *named(pipeline), "--prompt=clip")
  assert done.returncode == 2
  assert done.stderr == "error: --output is missing. Give it, like --output=clips.\n"
