"""Prompts to frames: what `train`, `sample` and `evaluate` generate clips with."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import pathlib

from absl import logging
from flax import nnx
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit import interop
from video_dit.checkpoints import state as state_lib
from video_dit.checkpoints import store as store_lib
from video_dit.data import patchify, reader, schema
from video_dit.generator import encoders
from video_dit.generator import request as request_lib
from video_dit.generator import rows as rows_lib
from video_dit.generator import sampler as sampler_lib
from video_dit.models.autoencoder.frozen import Frozen
from video_dit.models.dit import build as build_lib
from video_dit.models.text import encoder as text_lib
from video_dit.parallel import hosts, partition

Progress = Callable[[str], None]


class Generator:
  """Generates clips of any size and length from prompts.

  Args:
    config: of the run; `config.sample` says how.
    mesh: over which the work is spread.
    params: the model's averaged weights, laid over the mesh. Training replaces them
      through the attribute `params` before each `generate`.
    frozen: the autoencoder that the model was trained with.
    encoder: the text encoder that it was trained with.
    step: training steps that `params` have had, for records; 0 for published ones.
  """

  def __init__(
    self,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    params: state_lib.Params | None,
    frozen: Frozen,
    encoder: text_lib.TextEncoder,
    *,
    step: int = 0,
  ):
    self.config, self.mesh, self.params, self.step = config, mesh, params, step
    self.frozen, self.encoder = frozen, encoder
    self.grid = config_lib.Grid(
      space=frozen.space, time=frozen.time, patch=config.dit.patch
    )
    graphdef, _ = abstract_model(config, frozen.channels, encoder.width)
    self.sampler = sampler_lib.Sampler(config, mesh, graphdef)
    self.shape = self.sampler.shape

  @classmethod
  def from_workdir(
    cls,
    workdir: pathlib.Path,
    config: config_lib.Config,
    mesh: jax.sharding.Mesh,
    *,
    step: int | None = None,
  ) -> "Generator":
    """Loads a run's averaged weights and the encoders that its data set names.

    Args:
      workdir: of the run.
      config: of the run, with the caller's changes to `sample`, and the encoders' paths
        if they have moved.
      mesh: any; it need not be the one of training.
      step: of the checkpoint; by default the newest.

    Raises:
      ValueError: there is no such checkpoint, it is of another model, or an encoder is
        not the one that made the latents.
    """
    if config.objective != "diffusion":
      raise ValueError(
        f"{workdir}: config.objective={config.objective!r} does not train a generator."
        " Name the workdir of a run whose objective is 'diffusion'."
      )
    workdir = pathlib.Path(workdir)
    with store_lib.Store(workdir / "checkpoints") as store:
      step = store.existing(step)  # Before the encoders, which take longer to load.
      frozen, encoder = load_encoders(config, mesh, encoders.named_in(workdir))
      _, shapes = abstract_model(config, frozen.channels, encoder.width)
      params = store.restore_ema(abstract_params(shapes, mesh), step)
    return cls(config, mesh, params, frozen, encoder, step=step)

  @classmethod
  def from_published(
    cls, config: config_lib.Config, mesh: jax.sharding.Mesh
  ) -> "Generator":
    """Loads a published transformer and its encoders; no run and no data set is needed.

    Args:
      config: as `interop.with_transformer` returned it; names all three.
      mesh: any.

    Raises:
      ValueError: one is not named, is missing or damaged, or they do not fit together.
    """
    for section in ("dit", "autoencoder", "text"):
      if not getattr(config, section).checkpoint:
        raise ValueError(
          f"config.{section}.checkpoint is empty: a published transformer needs its"
          f" autoencoder and its text encoder. Set --config.{section}.checkpoint=PATH."
        )
    vae = pathlib.Path(config.autoencoder.checkpoint).expanduser()
    channels = interop.abstract_autoencoder(vae).channels
    width = config.text.width
    if interop.is_published(config.text):
      width = interop.abstract_text_encoder(config.text, None).config.width
    weights = interop.transformer_weights(config, channels, width)
    frozen = interop.autoencoder(vae, mesh=mesh)
    encoder = interop.text_encoder(config.text, mesh=mesh)
    return cls(config, mesh, weights(mesh), frozen, encoder)

  def check(self, requests: Sequence[request_lib.Request]) -> None:
    """Refuses what `generate` would refuse; nothing is compiled.

    Raises:
      ValueError: a request is off the grid or longer than a row.
    """
    for request in requests:
      request.check(self.grid)
    self._plan(requests)

  def _plan(
    self, requests: Sequence[request_lib.Request]
  ) -> tuple[rows_lib.Shape, list[tuple[rows_lib.Place, ...]]]:
    """Assigns requests to groups of rows; a few that fit one have no more than needed.

    Numbers of rows are doubled from one to the next, so that few are ever compiled.
    """
    tokens, num_text = rows_lib.sizes(requests, self.grid, self.encoder)
    rows = partition.row_ways(self.mesh.shape)
    while rows < self.shape.rows:
      shape = dataclasses.replace(self.shape, rows=rows)
      if sum(tokens) <= rows * shape.length:
        groups = rows_lib.plan(requests, tokens, num_text, shape)
        if len(groups) <= 1:
          return shape, groups
      rows *= 2
    return self.shape, rows_lib.plan(requests, tokens, num_text, self.shape)

  def generate(
    self,
    requests: Sequence[request_lib.Request],
    progress: Progress | None = None,
    blank: Callable[[request_lib.Request], None] | None = None,
  ) -> Iterator[tuple[request_lib.Request, np.ndarray]]:
    """Generates a clip for every request, as rows become ready, longest first.

    Args:
      requests: any number, of any sizes and lengths.
      progress: called with a few words before each part of the work.
      blank: called with a request whose clip is not finite, before its blank frames come.

    Yields:
      A request, as it was passed, and its frames `(F, H, W, 3)` uint8.

    Raises:
      ValueError: as `check`.
    """
    say = progress or (lambda text: None)
    for request in requests:
      request.check(self.grid)
    if not requests:
      return
    if self.params is None:
      raise ValueError("the generator has no weights: set its `params` first.")
    shape, groups = self._plan(requests)
    texts = self._encode([request.prompt for request in requests])
    negatives = self._encode([request.negative for request in requests])
    for number, places in enumerate(groups, 1):
      say(f"rows {number}/{len(groups)}")
      given: list[np.ndarray | None] = [None] * len(requests)
      for place in places:
        given[place.index] = self._encode_given(requests[place.index])
      group = rows_lib.assemble(
        places,
        requests,
        texts,
        negatives,
        given,
        shape=shape,
        grid=self.grid,
        channels=self.frozen.channels,
        dit=self.config.dit,
        guidance=self.config.sample.guidance,
      )
      patches_RNP = np.asarray(self.sampler(self.params, group))
      say(f"decoding {number}/{len(groups)}")
      yield from self._decode(patches_RNP, places, requests, blank)

  def _encode(self, prompts: Sequence[str]) -> list[np.ndarray]:
    """Encodings `(tokens, E)`, each distinct prompt encoded once.

    They are the first process's: different devices may round differently.
    """
    distinct = list(dict.fromkeys(prompts))
    encodings = hosts.of_first(self.encoder.encode(distinct))
    found = dict(zip(distinct, encodings, strict=True))
    return [found[prompt] for prompt in prompts]

  def _encode_given(self, request: request_lib.Request) -> np.ndarray | None:
    if request.given_FHWC is None:
      return None
    return np.asarray(self.frozen.encode(request.given_FHWC), np.float32)

  def _decode(self, patches_RNP, places, requests, blank):
    """Yields the clips of a group; those of one size are decoded together."""
    by_grid: dict[tuple, list[rows_lib.Place]] = {}
    for place in sorted(places, key=lambda place: place.index):
      request = requests[place.index]
      grid = self.grid.tokens(request.height, request.width, request.frames)
      by_grid.setdefault(grid, []).append(place)
    most = self.mesh.size  # one clip per device
    for grid, alike in by_grid.items():
      for first in range(0, len(alike), most):
        some = alike[first : first + most]
        latents = [
          self._latent(patches_RNP, place, grid, requests[place.index], blank)
          for place in some
        ]
        clips_BFHWC = self.frozen.decode_batch(np.stack(latents))
        for place, frames_FHWC in zip(some, clips_BFHWC, strict=True):
          yield requests[place.index], frames_FHWC

  def _latent(self, patches_RNP, place, grid, request: request_lib.Request, blank):
    """One clip's latent; where it is not finite, says so and returns a blank one."""
    patches_NP = patches_RNP[place.row, place.start : place.start + place.tokens]
    latent_FHWC = patchify.unpatchify(patches_NP, grid, self.grid.patch)
    if not np.isfinite(latent_FHWC).all():
      logging.error(
        "%s: the sampled latent is not finite, so the clip is blank. Lower"
        " config.sample.guidance, or use an earlier checkpoint, by --step.",
        request,
      )
      latent_FHWC = np.zeros_like(latent_FHWC)
      if blank is not None:
        blank(request)
    return np.asarray(latent_FHWC, np.float32)


def abstract_model(config: config_lib.Config, channels: int, text_width: int):
  """The model without its weights.

  Args:
    config: of the run.
    channels: of the latents.
    text_width: of the captions' encodings.

  Returns:
    The graph definition and the abstract parameters, which carry their axes.
  """
  patch_dim = channels * int(np.prod(config.dit.patch))

  def make() -> build_lib.Transformer:
    return build_lib.build(config.dit, patch_dim, text_width, rngs=nnx.Rngs(0))

  return nnx.split(nnx.eval_shape(make))


def abstract_params(shapes: nnx.State, mesh: jax.sharding.Mesh) -> state_lib.Params:
  """Shapes, dtypes and shardings of the parameters: what a checkpoint is read into."""
  laid = partition.shardings(shapes, mesh)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    nnx.to_pure_dict(shapes),
    laid,
  )


def load_encoders(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  named: encoders.Named = encoders.Named(),
) -> tuple[Frozen, text_lib.TextEncoder]:
  """Loads the autoencoder and the text encoder that made the run's latents.

  Args:
    config: of the run; its paths take precedence over those of the data set.
    mesh: over which they are spread.
    named: the paths in the workdir's own config.

  Raises:
    ValueError: the data set is missing, or an encoder is missing or not the one it names.
  """
  metadata = schema.Metadata.load(reader.set_folders(config.data.path, "latents")[0])
  frozen = load_autoencoder(config, mesh, metadata, named)
  return frozen, load_text_encoder(config, mesh, metadata, named)


def load_autoencoder(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  metadata: schema.Metadata,
  named: encoders.Named = encoders.Named(),
) -> Frozen:
  """Loads the autoencoder that made a data set; as `load_encoders`."""
  path = encoders.autoencoder_path(config, metadata, named)
  frozen = interop.autoencoder(path, mesh=mesh)
  encoders.check_maker(metadata, "autoencoder", path, frozen.fingerprint)
  return frozen


def load_text_encoder(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  metadata: schema.Metadata,
  named: encoders.Named = encoders.Named(),
) -> text_lib.TextEncoder:
  """Loads the text encoder that made a data set; as `load_encoders`."""
  text, folder = encoders.text_place(config, metadata, named)
  encoder = interop.text_encoder(text, folder, mesh=mesh)
  place = text.checkpoint or folder
  encoders.check_maker(metadata, "text", place, encoder.fingerprint)
  return encoder
