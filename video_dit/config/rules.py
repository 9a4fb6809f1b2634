"""The rules of settings: ranges, and what must fit together."""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from video_dit.config.grid import Grid
from video_dit.config.ingest import Ingest
from video_dit.config.sections import Autoencoder, Config, Text, Train


def check(config: Config, values: Mapping[str, Any]) -> None:
  """Checks a config against every rule, ranges before what computes with them.

  Args:
    config: to be checked; its types are already checked.
    values: its leaves by dotted key.

  Raises:
    ValueError: the first broken rule, with key, value and rule.
  """
  _check_ranges(values)
  check_autoencoder(config.autoencoder)
  _check_text(config.text)
  _check_dit(config)
  _check_sizes(config)
  _check_optimizer(config)
  _check_train(config.train)
  _require(
    not (config.train.initial and config.dit.checkpoint),
    "train.initial",
    config.train.initial,
    "must be empty with dit.checkpoint: a run starts from one or the other",
  )
  _check_media(config)
  _check_ingest(config.ingest)


def _require(holds: bool, where: str, value: Any, rule: str) -> None:
  if not holds:
    raise ValueError(f"config.{where}={value!r}: {rule}.")


_POSITIVE = """mesh.fsdp mesh.tensor mesh.context media.max_pixels media.max_frames
media.min_frames media.min_side media.max_source_pixels media.max_seconds
media.timeout_seconds media.workers media.shard_records ingest.side
ingest.samples_per_second ingest.shot_frames autoencoder.channels autoencoder.blocks
text.vocabulary text.width text.depth text.heads text.head_size text.mlp_width
text.max_tokens dit.width dit.depth dit.heads dit.mlp_ratio dit.rope_theta dit.unroll
dit.frequencies dit.norm_epsilon diffusion.shift_tokens data.rows data.row_length
data.row_segments data.row_text data.lookahead data.balance_rows data.window_frames
data.window_side data.threads data.prefetch optimizer.learning_rate optimizer.epsilon
train.steps
train.accumulate train.keep train.evaluate_batches sample.steps
sample.height sample.width sample.frames sample.rows
evaluate.batches""".split()

_FRACTIONS = """media.validation_fraction ingest.max_black ingest.max_frozen
ingest.max_text diffusion.given_probability reconstruction.noise_from
data.caption_dropout optimizer.final_fraction optimizer.beta1 optimizer.beta2
train.ema_decay sample.eta evaluate.times""".split()

# What whole numbers stay below, as devices have int32; and keys that stay on the host.
_MOST = 2**31
_MOSTS = {
  **dict.fromkeys(("media.max_pixels", "media.max_frames"), 2**63),
  **dict.fromkeys(("media.max_source_pixels", "media.tile_pixels"), 2**63),
  "media.timeout_seconds": 1e9,
  "sample.seed": 2**64,
}
# Of float32, in which devices compute.
_LARGEST = 3.4e38


def _check_ranges(values: Mapping[str, Any]) -> None:
  for key, value in values.items():
    finite = all(-_LARGEST <= x <= _LARGEST for x in _numbers(value))
    _require(finite, key, value, "must be a finite number that float32 can hold")
  for key in _POSITIVE:
    _require(values[key] > 0, key, values[key], "must be above 0")
  for key in _FRACTIONS:
    fit = all(0 <= x <= 1 for x in _numbers(values[key]))
    _require(fit, key, values[key], "must lie between 0 and 1")
  for key, value in values.items():
    some = _numbers(value)
    signed = key == "diffusion.time_mean"
    _require(signed or all(x >= 0 for x in some), key, value, "must not be negative")
    most = _MOSTS.get(key, _MOST if any(isinstance(x, int) for x in some) else math.inf)
    _require(all(x < most for x in some), key, value, f"must be below {most:,}")
  for key in ("optimizer.beta1", "optimizer.beta2"):
    _require(values[key] < 1, key, values[key], "must be below 1")
  rate = values["sample.frames_per_second"]
  _require(0.01 <= rate <= 1000, "sample.frames_per_second", rate, "needs 0.01 to 1000")
  shift = values["diffusion.max_shift"]
  _require(shift >= 1, "diffusion.max_shift", shift, "must be at least 1, which is none")
  weights = values["data.weights"]
  fit = all(0.001 <= weight <= 1000 for weight in weights)
  _require(fit, "data.weights", weights, "each must lie between 0.001 and 1000")
  times = values["evaluate.times"]
  _require(len(times) > 0, "evaluate.times", times, "names no noise level, like (0.5,)")


def _numbers(value: Any) -> list[int | float]:
  """Those of a leaf: of a tuple its entries."""
  entries = value if isinstance(value, tuple) else (value,)
  return [x for x in entries if isinstance(x, (int, float))]


def _check_media(config: Config) -> None:
  """What is kept lies between a least and a most, of which 0 is no limit in `ingest`."""
  media, ingest = config.media, config.ingest
  _require(
    media.min_frames <= media.max_frames,
    "media.min_frames",
    media.min_frames,
    f"must be at most media.max_frames={media.max_frames}",
  )
  for name in ("aspect", "motion"):
    least, most = getattr(ingest, f"min_{name}"), getattr(ingest, f"max_{name}")
    _require(
      not most or least <= most,
      f"ingest.min_{name}",
      least,
      f"must be at most ingest.max_{name}={most}",
    )


def _check_ingest(ingest: Ingest) -> None:
  """Limits on measured values need measuring."""
  plain = Ingest()
  names = """max_black max_frozen max_black_seconds max_frozen_seconds min_motion
  max_motion min_sharpness max_text near_duplicates""".split()
  for name in names:
    value = getattr(ingest, name)
    _require(
      ingest.measure or value == getattr(plain, name),
      f"ingest.{name}",
      value,
      "needs ingest.measure=True",
    )


def _is_power_of_two(value: int) -> bool:
  return value > 0 and value & (value - 1) == 0


def check_autoencoder(ae: Autoencoder) -> None:
  """Checks an autoencoder's sizes against each other."""
  _require(_is_power_of_two(ae.patch), "autoencoder.patch", ae.patch, "a power of two")
  _require(
    ae.space % ae.patch == 0 and _is_power_of_two(ae.space // ae.patch),
    "autoencoder.space",
    ae.space,
    f"must be a power of two times autoencoder.patch={ae.patch}",
  )
  _require(_is_power_of_two(ae.time), "autoencoder.time", ae.time, "a power of two")
  needed = max((ae.space // ae.patch).bit_length(), ae.time.bit_length())
  _require(
    len(ae.widths) >= needed,
    "autoencoder.widths",
    ae.widths,
    f"needs at least {needed} levels for space={ae.space}, patch={ae.patch},"
    f" time={ae.time}",
  )
  _require(all(w > 0 for w in ae.widths), "autoencoder.widths", ae.widths, "above 0")


def _check_text(text: Text) -> None:
  """Relative positions: half of the buckets for either side, half of these exact."""
  _require(text.buckets >= 4, "text.buckets", text.buckets, "must be at least 4")
  _require(
    text.max_distance > text.buckets // 4,
    "text.max_distance",
    text.max_distance,
    f"must be above a quarter of text.buckets={text.buckets}",
  )


def _check_dit(config: Config) -> None:
  dit = config.dit
  _require(
    0 < dit.mlp_width < _MOST,
    "dit.mlp_ratio",
    dit.mlp_ratio,
    f"makes an MLP of {dit.mlp_width:.3g} channels of dit.width={dit.width}",
  )
  _require(
    dit.width % dit.heads == 0,
    "dit.width",
    dit.width,
    f"must be a multiple of dit.heads={dit.heads}",
  )
  size = dit.width // dit.heads
  _require(
    size % 2 == 0, "dit.heads", dit.heads, f"head size {size} must be even to be rotated"
  )
  _require(all(p > 0 for p in dit.patch), "dit.patch", dit.patch, "must be above 0")
  _require(
    abs(sum(dit.rope_fractions) - 1) < 1e-6 and all(f >= 0 for f in dit.rope_fractions),
    "dit.rope_fractions",
    dit.rope_fractions,
    "must be at least 0 each and sum to 1",
  )
  _require(dit.frequencies % 2 == 0, "dit.frequencies", dit.frequencies, "must be even")
  wan = dit.architecture == "wan"
  for key, only in (("process", "flow"), ("prediction", "velocity")):
    value = getattr(config.diffusion, key)
    _require(
      not (wan and dit.checkpoint) or value == only,
      f"diffusion.{key}",
      value,
      f"must be {only!r} with dit.checkpoint: Wan's transformers have learnt that",
    )
  _require(
    wan or not dit.text_length, "dit.text_length", dit.text_length, "is 0 except in 'wan'"
  )
  _require(
    not dit.text_length or dit.text_length >= config.text.max_tokens,
    "dit.text_length",
    dit.text_length,
    f"must be 0, or at least text.max_tokens={config.text.max_tokens}",
  )


def _check_optimizer(config: Config) -> None:
  # Adam divides by 1 - beta and, where a gradient is 0, by epsilon, all in float32.
  for key in ("beta1", "beta2"):
    value = getattr(config.optimizer, key)
    below = float(np.float32(value)) < 1
    _require(below, f"optimizer.{key}", value, "must be below 1, in float32 too")
  _require(
    config.optimizer.epsilon >= float(np.finfo(np.float32).tiny),
    "optimizer.epsilon",
    config.optimizer.epsilon,
    "must be above 0, in float32 too; 1e-8 is common",
  )
  _require(
    config.optimizer.moments_dtype == "float32" or config.optimizer.beta2 <= 0.99,
    "optimizer.beta2",
    config.optimizer.beta2,
    "must be at most 0.99 with optimizer.moments_dtype='bfloat16', whose rounding loses"
    " smaller changes; choose 0.95, or float32",
  )


def _check_train(train: Train) -> None:
  every = train.checkpoint_every
  _require(
    not train.keep_every or (every > 0 and train.keep_every % every == 0),
    "train.keep_every",
    train.keep_every,
    f"must be a multiple of train.checkpoint_every={every}, or 0 for none",
  )


def _check_sizes(config: Config) -> None:
  """Rules between sections."""
  grid = Grid.of(config)
  for key, unit in zip(("height", "width"), grid.side, strict=True):
    value = getattr(config.sample, key)
    near = max(unit, round(value / unit) * unit)
    _require(
      value % unit == 0,
      f"sample.{key}",
      value,
      f"must be a multiple of autoencoder.space * dit.patch = {unit}; try {near}",
    )
  _require(
    not config.sample.eta or config.sample.sampler == "ddim",
    "sample.eta",
    config.sample.eta,
    f"must be 0 with sample.sampler={config.sample.sampler!r}, which adds no noise in"
    " its steps; or choose sample.sampler='ddim'",
  )
  lowest, highest = config.sample.guidance_interval
  _require(
    0 <= lowest <= highest <= 1,
    "sample.guidance_interval",
    config.sample.guidance_interval,
    "must be a lowest and a highest noise level in [0, 1], like (0.5, 1.0)",
  )
  frames = config.sample.frames
  _require(
    grid.floor(frames) == frames,
    "sample.frames",
    frames,
    f"must be {grid.least} + a multiple of {grid.span}, with autoencoder.time={grid.time}"
    f" and dit.patch={grid.patch}; try {max(grid.least, grid.floor(frames))}",
  )
  _require(
    config.data.row_length % config.mesh.context == 0,
    "data.row_length",
    config.data.row_length,
    f"must be a multiple of mesh.context={config.mesh.context}",
  )
  _require(
    config.data.rows % config.data.balance_rows == 0,
    "data.rows",
    config.data.rows,
    f"must be a multiple of data.balance_rows={config.data.balance_rows}",
  )
  windows = Grid(space=config.autoencoder.space, time=config.autoencoder.time)
  _require(
    windows.floor(config.data.window_frames) == config.data.window_frames,
    "data.window_frames",
    config.data.window_frames,
    f"must be 1 + a multiple of autoencoder.time={config.autoencoder.time}",
  )
  _require(
    config.data.window_side % config.autoencoder.space == 0,
    "data.window_side",
    config.data.window_side,
    f"must be a multiple of autoencoder.space={config.autoencoder.space}",
  )
