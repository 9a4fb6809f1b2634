"""The two objectives with their models and data, as configs name them."""

from collections.abc import Iterator
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from typing import Any

import jax

from video_dit import config as config_lib
from video_dit import interop
from video_dit.data import loader, reader, schema
from video_dit.data.batch import Batch, Windows
from video_dit.models.autoencoder import store as autoencoder_store
from video_dit.models.text import encoder as encoder_lib
from video_dit.parallel import hosts, partition
from video_dit.train import initial, pictures, statistics
from video_dit.train.objective import Objective
from video_dit.trainer import diffusion, reconstruction
from video_dit.trainer import heldout as heldout_lib
from video_dit.trainer import task as task_lib

# What weights there are and what they mean: a run does not go on with others of these.
_DIFFUSION_KEYS = (
  "objective",
  "dit.architecture",
  "dit.width",
  "dit.depth",
  "dit.heads",
  "dit.mlp_ratio",
  "dit.patch",
  "dit.rope_fractions",
  "dit.rope_theta",
  "dit.rope_side",
  "dit.rope_seconds",
  "dit.frequencies",
  "dit.norm_epsilon",
  "dit.text_length",
  "diffusion.process",
  "diffusion.schedule",
  "diffusion.prediction",
  "autoencoder.channels",
  "autoencoder.space",
  "autoencoder.time",
)
_RECONSTRUCTION_KEYS = (
  "objective",
  "autoencoder.channels",
  "autoencoder.space",
  "autoencoder.time",
  "autoencoder.patch",
  "autoencoder.widths",
  "autoencoder.blocks",
  "autoencoder.factorized",
)


def from_config(
  config: config_lib.Config, mesh: jax.sharding.Mesh, *, begun: bool = False
) -> Objective:
  """The objective that `config.objective` names; opens its data set.

  Args:
    config: of the run.
    mesh: over which it is spread.
    begun: whether it goes on from a checkpoint of its own: `dit.checkpoint` and
      `train.initial` are not read.

  Raises:
    ValueError: there is no such data set, it is of another kind or made by other
      encoders, the batch does not divide over the mesh, or what it is to start
      from does not fit.
  """
  task_lib.check_mesh(config, mesh)
  if config.objective == "reconstruction":
    objective = reconstruction_objective(config)
  else:
    objective = diffusion_objective(config, mesh, begun=begun)
  if begun or not config.train.initial:
    return objective
  weights = initial.weights(config, objective)
  return dataclasses.replace(objective, initial=weights)


def diffusion_objective(
  config: config_lib.Config, mesh: jax.sharding.Mesh, *, begun: bool = False
) -> Objective:
  """Trains the DiT on latents."""
  dataset = reader.Dataset(reader.set_folders(config.data.path, "latents"))

  def check_makers() -> None:
    checkpoint = config.autoencoder.checkpoint
    mark = interop.autoencoder_fingerprint(checkpoint) if checkpoint else None
    reader.check(dataset.metadata, mark, interop.text_fingerprint(config.text))

  hosts.check(check_makers)
  accumulated = _accumulated(config)
  plan = loader.steps(dataset, accumulated)
  packing = plan.report()
  heldout, reason = _heldout_split(dataset)

  def batches(mesh: jax.sharding.Mesh, step: int) -> Iterator[Batch]:
    share = _share(mesh, accumulated)
    source = loader.loader(dataset, accumulated, start_step=step, share=share, plan=plan)
    return loader.prefetch_to_device(
      source, task_lib.rows_layout(mesh), config.data.prefetch, share
    )

  @functools.cache  # planned once for all evaluations of the run
  def heldout_rows(mesh: jax.sharding.Mesh) -> heldout_lib.Rows:
    assert heldout is not None
    return heldout_lib.Rows(heldout, config, mesh, config.train.evaluate_batches)

  metadata, show = dataset.metadata, None
  if is_random := encoder_lib.is_random(config.text, metadata.text_path):
    hosts.say(f"text encoder: {encoder_lib.RANDOM}")
  if config.train.sample_prompts:
    show = pictures.Sampler(config, mesh, metadata)
  task = task_lib.diffusion_task(config, metadata.channels, metadata.text_width)
  return Objective(
    build=task.build,
    loss=task.loss,
    layout=task.layout,
    batches=batches,
    data=_fingerprint(dataset),
    steps=plan,
    facts={
      "training clips": len(dataset),
      **_sets(dataset, config.data),
      "rows of an epoch": packing["rows"],
      "packing fill of an epoch": f"{packing['fill']:.2%}",
      "held-out clips": len(heldout) if heldout else reason,
      **({"text encoder": encoder_lib.RANDOM} if is_random else {}),
    },
    model_keys=_DIFFUSION_KEYS,
    initial=None if begun else _initial(config, metadata),
    weight=packing["pieces"] / packing["rows"] * accumulated.data.rows,
    heldout=functools.partial(diffusion.heldout, config=config),
    heldout_batches=None if reason else lambda mesh: iter(heldout_rows(mesh)),
    levels=config.evaluate.times,
    show=show,
  )


def _initial(config: config_lib.Config, metadata: schema.Metadata):
  """How to read the initial weights; None if they are drawn at random."""
  if not config.dit.checkpoint:
    return None
  sizes = (metadata.channels, metadata.text_width)
  return interop.transformer_weights(config, *sizes)


def reconstruction_objective(config: config_lib.Config) -> Objective:
  """Trains the autoencoder on windows of pixels, and exports it at the end."""
  dataset = reader.Dataset(reader.set_folders(config.data.path, "pixels"))
  reader.check(dataset.metadata, kind="pixels")
  heldout, reason = _heldout_split(dataset)
  shown = dataset if reason else heldout
  task = task_lib.reconstruction_task(config)

  def windows(split, wanted: config_lib.Config, mesh, step: int) -> Iterator[Windows]:
    share = _share(mesh, wanted)
    source = loader.windows_loader(split, wanted, start_step=step, share=share)
    sharding = partition.rows_sharding(mesh)
    return loader.prefetch_to_device(source, sharding, config.data.prefetch, share)

  def some(split, most: int, mesh) -> Iterator[Windows]:
    """The first batches of a split, enough to see each clip once, at most `most`."""
    num = min(most, math.ceil(len(split) / config.data.rows))
    batches = windows(split, config, mesh, 0)
    return (batch for _, batch in zip(range(num), batches, strict=False))

  def finish(mesh, ema, workdir: pathlib.Path) -> str:
    batches = some(dataset, statistics.BATCHES, mesh)
    mean, std = statistics.measure(config, task.build, mesh, ema, batches)
    folder = workdir / "autoencoder"
    # Whole on every device, as one process writes all.
    whole = jax.jit(lambda x: x, out_shardings=partition.replicated(mesh))(ema)
    if hosts.leads():
      autoencoder_store.export(folder, config.autoencoder, whole, mean, std)
    return f"exported the frozen autoencoder to {folder}"

  def show(mesh, ema, step: int, folder: pathlib.Path) -> list:
    del step
    return pictures.reconstructions(
      config, task.build, mesh, ema, some(shown, 1, mesh), folder
    )

  accumulated = _accumulated(config)
  return Objective(
    build=task.build,
    loss=task.loss,
    layout=task.layout,
    batches=lambda mesh, step: windows(dataset, accumulated, mesh, step),
    data=_fingerprint(dataset),
    facts={
      "training clips": len(dataset),
      **_sets(dataset, config.data),
      "held-out clips": len(heldout) if heldout else reason,
    },
    model_keys=_RECONSTRUCTION_KEYS,
    heldout=functools.partial(reconstruction.heldout, config=config),
    heldout_batches=None
    if reason
    else lambda mesh: some(heldout, config.train.evaluate_batches, mesh),
    show=show,
    finish=finish,
  )


def _accumulated(config: config_lib.Config) -> config_lib.Config:
  """The config of a whole step's rows, those of all its micro-batches."""
  rows = config.data.rows * config.train.accumulate
  return dataclasses.replace(config, data=dataclasses.replace(config.data, rows=rows))


def _heldout_split(train: reader.Dataset) -> tuple[reader.Dataset | None, str]:
  """The validation split, or None and the reason."""
  try:
    dataset = reader.held_out([one.folder for one in train.sets])
  except ValueError as error:
    return None, f"none ({error})"
  return (dataset, "") if len(dataset) else (None, "none (the split is empty)")


def _sets(dataset: reader.Dataset, data: config_lib.Data) -> dict[str, str]:
  """What the sets hold, where there are several."""
  weights = data.weights or (1.0,) * len(dataset.sets)
  found = (
    f"{one.folder}: {len(one):,} clips, {weight:g} times an epoch"
    for one, weight in zip(dataset.sets, weights, strict=True)
  )
  return {"data sets": "; ".join(found)} if len(dataset.sets) > 1 else {}


def _share(mesh: jax.sharding.Mesh, config: config_lib.Config) -> loader.Share:
  """The rows that this process's devices hold, whole or a part of their tokens."""
  return loader.Share.of(partition.rows_sharding(mesh), config.data.rows)


def _fingerprint(dataset: reader.Dataset) -> str:
  """Hash of who made a set and of its records' extents, and another of their keys."""
  metadata, index = dataset.metadata, dataset.index
  settings = "+".join(one.metadata.settings for one in dataset.sets)
  facts: dict[str, Any] = {"settings": settings, "records": len(dataset)}
  facts |= {"autoencoder": metadata.autoencoder, "text": metadata.text}
  digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
  for column in (index.t, index.h, index.w, index.text_tokens):
    digest.update(column.tobytes())
  return f"{digest.hexdigest()[:16]}-{index.digest_of_keys()}"
