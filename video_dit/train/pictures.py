"""Pictures made during training: sampled clips, and clips beside their reconstruction."""

from collections.abc import Callable, Iterable
import itertools
import math
import pathlib

from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.checkpoints.state import Params
from video_dit.data import schema
from video_dit.data.batch import Windows
from video_dit.generator import captions, encoders
from video_dit.generator import generator as generator_lib
from video_dit.generator import request as request_lib
from video_dit.generator import rows as rows_lib
from video_dit.generator import sampler as sampler_lib
from video_dit.media import write
from video_dit.models.autoencoder.frozen import to_bytes, to_unit
from video_dit.models.autoencoder.model import Autoencoder
from video_dit.parallel import hosts, partition

Pictures = list[tuple[str, pathlib.Path]]
_SHOWN_CLIPS = 4


class Sampler:
  """Samples `train.sample_prompts`.

  The prompts are encoded at once, before the state of the training takes memory, and the
  text encoder is dropped. The autoencoder is loaded when first called, and stays.

  Args:
    config: of the run; `sample` says how.
    mesh: of the run.
    metadata: of its data set.

  Raises:
    ValueError: what sampling would refuse: a missing or different encoder, rows that
      do not divide over the mesh, or a clip or prompt that has no place on the grid, in a
      row or in its file.
  """

  def __init__(
    self, config: config_lib.Config, mesh: jax.sharding.Mesh, metadata: schema.Metadata
  ):
    self._config, self._metadata = config, metadata
    hosts.check(lambda: encoders.check(config, metadata))
    grid = config_lib.Grid(
      space=metadata.space, time=metadata.time, patch=config.dit.patch
    )
    requests = _requests(config)
    for request in requests:
      request.check(grid)
      request.check_format(config.sample.format)
    shape = sampler_lib.shape(config, mesh)
    tokens = [math.prod(grid.tokens(r.height, r.width, r.frames)) for r in requests]
    rows_lib.plan(requests, tokens, [1] * len(tokens), shape)  # before a long loading
    encoder = generator_lib.load_text_encoder(config, mesh, metadata)
    rows_lib.plan(requests, *rows_lib.sizes(requests, grid, encoder), shape)
    self._captions = captions.Encoded(
      encoder, [*config.train.sample_prompts, config.sample.negative]
    )
    self._generator: generator_lib.Generator | None = None

  def __call__(
    self, mesh: jax.sharding.Mesh, ema: Params, step: int, folder: pathlib.Path
  ) -> Pictures:
    """Writes a clip for each prompt.

    Args:
      mesh: of the run.
      ema: averaged weights.
      step: of the weights.
      folder: to write to.

    Returns:
      Each prompt and its file, in the order of the config.
    """
    config = self._config
    if self._generator is None:
      frozen = generator_lib.load_autoencoder(config, mesh, self._metadata)
      self._generator = generator_lib.Generator(config, mesh, ema, frozen, self._captions)
    generator, sample = self._generator, config.sample
    generator.params, generator.step = ema, step
    requests = _requests(config)
    numbers = {id(request): i for i, request in enumerate(requests)}
    found: dict[int, pathlib.Path] = {}
    for request, frames_FHWC in generator.generate(requests):
      number = numbers[id(request)]
      suffix = "png" if request.frames == 1 else sample.format
      found[number] = folder / f"{number:03d}.{suffix}"
      if hosts.leads():
        write.write_video(found[number], frames_FHWC, request.frames_per_second)
    # The state is donated by the next step: nothing may hold on to its weights.
    generator.params = None
    return [(request.prompt, found[i]) for i, request in enumerate(requests)]


def _requests(config: config_lib.Config) -> list[request_lib.Request]:
  """The prompts of a training run as requests."""
  sample = config.sample
  return [
    request_lib.Request(
      prompt=prompt,
      height=sample.height,
      width=sample.width,
      frames=sample.frames,
      frames_per_second=sample.frames_per_second,
      seed=sample.seed + i,
      negative=sample.negative,
    )
    for i, prompt in enumerate(config.train.sample_prompts)
  ]


def reconstructions(
  config: config_lib.Config,
  build: Callable[[nnx.Rngs], Autoencoder],
  mesh: jax.sharding.Mesh,
  params: Params,
  batches: Iterable[Windows],
  folder: pathlib.Path,
) -> Pictures:
  """Draws one sheet of clips, each above its reconstruction.

  Args:
    config: `train.compute_dtype` is read.
    build: makes the model.
    mesh: over which the parameters and the batches are laid.
    params: of the model.
    batches: of windows; the first is shown.
    folder: to write to.
  """
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

  def reconstruct(params: Params, clips: jax.Array) -> tuple[jax.Array, jax.Array]:
    model, dtype = nnx.merge(graphdef, params), config.train.compute_dtype
    mean, _ = model.encode(to_unit(clips).astype(dtype))
    return clips, to_bytes(model.decode(mean.astype(dtype)))

  run = jax.jit(reconstruct, out_shardings=partition.replicated(mesh))
  rows: list[tuple[str, np.ndarray]] = []
  with jax.set_mesh(mesh):
    for batch in itertools.islice(batches, 1):
      for pair in zip(*jax.device_get(run(params, batch.clips)), strict=True):
        rows.extend(zip(("original", "reconstruction"), pair, strict=True))
  path = folder / "reconstructions.png"
  write.contact_sheet(path, rows[: 2 * _SHOWN_CLIPS])
  return [("clips, each above its reconstruction", path)]
