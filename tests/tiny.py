"""A tiny run on disk: encoders, latents and a checkpoint, none of them trained.

Everything is the real thing at the least size; weights are random, and those that start
at zero are drawn too, so that every input matters to the output.
"""

import dataclasses
import json
import pathlib

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from video_dit import config as config_lib
from video_dit.checkpoints import state as state_lib
from video_dit.checkpoints import store as store_lib
from video_dit.data import schema
from video_dit.data import writer as writer_lib
from video_dit.generator import generator as generator_lib
from video_dit.generator import records
from video_dit.media import write
from video_dit.media.shapes import captioning, rendering, scene
from video_dit.models.autoencoder import model as autoencoder_lib
from video_dit.models.autoencoder import store as autoencoder_store
from video_dit.models.text import encoder as text_lib
from video_dit.models.text import tokenizer
from video_dit.parallel import mesh as mesh_lib

STEP = 3
_RUNS: list[pathlib.Path] = []
PROMPTS = ("a red circle moves left on black", "a blue square on white", "")

CONFIG = config_lib.Config(
  name="tiny",
  objective="diffusion",
  autoencoder=config_lib.Autoencoder(
    channels=4, space=4, time=4, patch=2, widths=(4, 4, 4), blocks=1
  ),
  text=config_lib.Text(
    vocabulary=80, width=16, depth=1, heads=2, head_size=8, mlp_width=16, max_tokens=24
  ),
  dit=config_lib.DiT(width=64, depth=2, heads=2, mlp_ratio=2.0, rope_side=4.0),
  diffusion=config_lib.Diffusion(shift=1.5, shift_tokens=16),
  data=config_lib.Data(rows=8, row_length=96, row_segments=3, row_text=80),
  train=config_lib.Train(compute_dtype="float32"),
  sample=config_lib.Sample(
    steps=3, guidance=2.0, height=32, width=32, frames=9, frames_per_second=8.0
  ),
  evaluate=config_lib.Evaluate(batches=2, times=(0.25, 0.75), adherence=True),
  media=config_lib.Media(frames_per_second=8.0),
)


def frozen(folder: pathlib.Path) -> autoencoder_store.Frozen:
  """A random autoencoder, exported to the folder and read back."""
  arch = CONFIG.autoencoder

  def make():
    return autoencoder_lib.Autoencoder(arch, rngs=nnx.Rngs(0))

  params = _random(nnx.to_pure_dict(nnx.split(nnx.eval_shape(make))[1]), 0)
  ones = np.ones(arch.channels, np.float32)
  autoencoder_store.export(folder, arch, params, 0 * ones, ones)
  return autoencoder_store.load(folder)


def encoder(folder: pathlib.Path) -> text_lib.TextEncoder:
  """A random text encoder with a tokenizer for the demo's words, saved to the folder."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(0)
  captions = [captioning.caption(scene.random_scene(rng)) for _ in range(200)]
  tokenizer.train_tokenizer(captions, folder / text_lib.TOKENIZER, CONFIG.text.vocabulary)
  made = text_lib.TextEncoder.load(CONFIG.text, folder)
  made.save(folder)
  return made


def params(
  devices: jax.sharding.Mesh, text_width: int, seed: int = 0
) -> state_lib.Params:
  """Random weights of the model, over the mesh; none is zero."""
  _, shapes = generator_lib.abstract_model(
    CONFIG, CONFIG.autoencoder.channels, text_width
  )
  abstract = generator_lib.abstract_params(shapes, devices)
  host = _random(abstract, seed)
  return jax.tree.map(lambda x, leaf: jax.device_put(x, leaf.sharding), host, abstract)


def _random(shapes, seed: int):
  """Arrays of these shapes, scaled so that nothing grows from layer to layer."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4.0
    return (rng.standard_normal(leaf.shape) / np.sqrt(fan)).astype(np.float32)

  return jax.tree.map(draw, shapes)


def mesh(text: str = "") -> jax.sharding.Mesh:
  """A mesh over all devices of the tests."""
  return mesh_lib.start(text, config_lib.Mesh())


def environment() -> dict[str, str]:
  """Of commands that tests start: the tests' own platform and compilation cache."""
  cache = jax.config.jax_compilation_cache_dir
  return {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}


def sample(**changes) -> records.Sample:
  """The record of a sample."""
  values = {"file": "x.mp4", "prompt": "", "height": 32, "width": 32, "frames": 9}
  values |= {"frames_per_second": 8.0, "seed": 0, "guidance": 1.0}
  return records.Sample(**(values | changes))


def run_once(tmp_path_factory) -> pathlib.Path:
  """The workdir of one run that all tests of one run read."""
  if not _RUNS:
    _RUNS.append(run(tmp_path_factory.mktemp("tiny"), mesh()))
  return _RUNS[0]


def run(folder: pathlib.Path, devices: jax.sharding.Mesh) -> pathlib.Path:
  """Writes a whole run: data set, encoders, config and a checkpoint.

  Returns:
    Its workdir.
  """
  data, workdir = folder / "data", folder / "run"
  autoencoder, text = frozen(data / "autoencoder"), encoder(data / "text")
  metadata = schema.Metadata(
    kind="latents",
    autoencoder=autoencoder.fingerprint,
    autoencoder_path=str(data / "autoencoder"),
    channels=autoencoder.channels,
    space=autoencoder.space,
    time=autoencoder.time,
    text=text.fingerprint,
    text_path=str(data / "text"),
    text_width=text.width,
    empty=text.encode([""])[0],
  )
  lines = []
  with writer_lib.ShardWriter(data / "latents", metadata) as writer:
    for i in range(6):
      split = "validation" if i < 2 else "train"
      lines.append(_add_clip(writer, i, split, autoencoder, text, folder / "media"))
    writer.finish()
  pyarrow.parquet.write_table(pa.Table.from_pylist(lines), data / "clips.parquet")
  config = dataclasses.replace(
    CONFIG, data=dataclasses.replace(CONFIG.data, path=str(data))
  )
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
  weights = params(devices, text.width)
  state = state_lib.TrainState(
    step=jnp.int32(STEP), params=weights, ema=jax.tree.map(jnp.copy, weights), opt={}
  )
  with store_lib.Store(workdir / "checkpoints", keep=1) as store:
    store.save(state, store_lib.Position(step=STEP, seed=0, data=""))
    store.wait()
  return workdir


def _add_clip(writer, i: int, split: str, autoencoder, text, media: pathlib.Path):
  """Renders clip i, writes its file and its record, and returns its line."""
  media.mkdir(exist_ok=True)
  shown = scene.random_scene(np.random.default_rng(i), size=(32, 32), frames=9, objects=1)
  frames_FHWC, caption = rendering.render(shown), captioning.caption(shown)
  path = media / f"{i}.mp4"
  write.write_video(path, frames_FHWC, 8.0)
  writer.write(
    schema.LatentRecord(
      key=f"{i:032x}",
      latent=autoencoder.encode(frames_FHWC).astype(np.float16),
      text=text.encode([caption])[0],
      caption=caption,
      frames_per_second=8.0,
      frames=9,
      height=32,
      width=32,
    ),
    split,
  )
  size = {"frames": 9, "height": 32, "width": 32}
  rate = {"frames_per_second": 8.0, "start_seconds": 0.0}
  return {"path": str(path), "caption": caption, "split": split, "kind": "video"} | (
    size | rate
  )
