"""What is too large in a plan that does not fit, and what together would make it fit.

Of the compiler's figures of what was planned, the state grows and shrinks as it is split,
the rest as the formulas of `formula` say.
"""

from collections.abc import Callable, Iterator, Sequence
import math
from typing import Any

from video_dit import config as config_lib
from video_dit.parallel import partition
from video_dit.plan import checks, formula, ways
from video_dit.plan.ways import GB, Way

_STATE = ("parameters", "ema", "optimizer")
_WORK = ("activations", "temporaries")
_PARTS = (*_STATE, "batch", *_WORK, "other_encoder")
_MORE = (2, 4, 8, 16)  # times the chips, where these are too few


def of_training(
  figures: dict[str, Any], config: config_lib.Config, axes: dict[str, int]
) -> list[str]:
  """The lines below DOES NOT FIT of a training step; none where it fits.

  Args:
    figures: of the plan.
    config: as it was asked for; with fewer rows than devices it was planned as filled.
    axes: of the mesh.
  """
  memory = figures["memory"]
  if figures["fits"]:
    return []
  diffuses = config.objective == "diffusion"
  start = Way(config, axes)
  before = _extents(start, figures["parameters"])

  def need(way: Way) -> float:
    after = _extents(way, figures["parameters"])
    scaled = (
      sum(memory.get(part, 0.0) for part in parts) * new / old
      for parts, old, new in zip((_STATE, ("batch",), _WORK), before, after, strict=True)
    )
    return sum(scaled) + memory.get("code", 0.0) + max(0.0, memory.get("other", 0.0))

  moves: list[ways.Move] = [_split_state, _rows_in_turn]
  if diffuses:
    moves += [_keep_attention, _split_rows, _keep_inputs]
  moves.append(_halve_moments)
  if diffuses:
    moves += [_offload, _shorten_rows]
  lines, end = _told(memory, start, moves, need)
  if ways.fits(end, need, memory["available"]):
    return lines
  devices = _count(axes)
  for times in _MORE:
    wider = start.on(fsdp=axes["fsdp"] * times)
    if not checks.accepts(wider.filled, wider.axes):
      continue
    end, _ = ways.follow(wider, moves, need, memory["available"])
    if ways.fits(end, need, memory["available"]):
      return [
        *lines,
        f"On {devices * times} devices it would fit: {end.text} (about"
        f" {need(end) / GB:.1f} GB).",
      ]
  return lines


def of_sampling(
  figures: dict[str, Any], config: config_lib.Config, axes: dict[str, int], clip: int
) -> list[str]:
  """The same of the sampler, for clips of so many tokens."""
  memory = figures["memory"]
  if figures["fits"]:
    return []

  def extents(way: Way) -> tuple[float, float]:
    sample, sizes = way.config.sample, way.axes
    length = sample.row_length or way.config.data.row_length
    over = partition.row_ways(sizes)
    rows = -(-sample.rows // over)
    split = sizes["fsdp"] * sizes["tensor"] * sizes["context"]
    return 1 / split, rows * length / sizes["context"] / sizes["tensor"]

  start = Way(config, axes)
  before = extents(start)

  def need(way: Way) -> float:
    state, work = (new / old for old, new in zip(before, extents(way), strict=True))
    rest = memory["total"] - memory["parameters"] - memory.get("code", 0.0)
    return memory["parameters"] * state + rest * work + memory.get("code", 0.0)

  def fewer_rows(way: Way) -> Iterator[tuple[Way, str]]:
    over = partition.row_ways(way.axes)
    if way.config.sample.rows > over:
      yield way.having("sample", rows=over), "gives each device one row"

  def shorter_rows(way: Way) -> Iterator[tuple[Way, str]]:
    length = way.config.sample.row_length or way.config.data.row_length
    least = -(-clip // 128) * 128
    if length > least:
      yield way.having("sample", row_length=least), "leaves one clip in a row"

  moves: list[ways.Move] = [_split_state, fewer_rows, shorter_rows, _split_rows]
  return _told(memory, start, moves, need)[0]


def of_encoding(
  figures: dict[str, Any],
  config: config_lib.Config,
  axes: dict[str, int],
  hosts: int,
) -> list[str]:
  """The same of the encoders, both at work.

  Args:
    figures: of both, as `encoders.figures` has them.
    config: of the plan.
    axes: of the mesh.
    hosts: published text encoders are split over the mesh of one alone.
  """
  sample = config.sample
  pixels, words = (figures[name]["memory"] for name in ("autoencoder", "text"))
  own = pixels["total"] - pixels["other_encoder"]
  text_work = words["total"] - words["other_encoder"] - words["parameters"]
  ways_now = _count(axes) // axes["data"] if hosts == 1 else 1

  def text_bytes(way: Way) -> float:
    split = _count(way.axes) // way.axes["data"] if hosts == 1 else 1
    item = 2 if way.config.text.dtype == "bfloat16" else 4
    was = 2 if config.text.dtype == "bfloat16" else 4
    return words["parameters"] * ways_now / split * item / was

  def need(way: Way) -> float:
    frame = sample.height * sample.width
    was = min(frame, config.media.tile_pixels)
    now = min(frame, way.config.media.tile_pixels)
    work = (own - pixels["parameters"]) * now / was
    return pixels["parameters"] + work + text_bytes(way) + text_work

  def narrow(way: Way) -> Iterator[tuple[Way, str]]:
    if way.config.text.dtype == "float32":
      yield way.having("text", dtype="bfloat16"), "halves the text encoder"

  def split(way: Way) -> Iterator[tuple[Way, str]]:
    if hosts == 1 and way.axes["data"] > 1:
      fsdp = way.axes["fsdp"] * way.axes["data"]
      yield way.on(data=1, fsdp=fsdp), "splits a published text encoder"

  def tiles(way: Way) -> Iterator[tuple[Way, str]]:
    most = min(way.config.media.tile_pixels, sample.height * sample.width)
    if most >= 2 * 128 * 128:
      yield way.having("media", tile_pixels=most // 2), "encodes frames in tiles"

  if figures["autoencoder"]["fits"] and figures["text"]["fits"]:
    return []
  return _told(pixels, Way(config, axes), [split, narrow, tiles], need)[0]


def _told(
  memory: dict[str, float],
  start: Way,
  moves: Sequence[ways.Move],
  need: Callable[[Way], float],
) -> tuple[list[str], Way]:
  """What is too large, the steps that help, whether they suffice, and where they end."""
  over = memory["total"] - memory["available"]
  room = min(memory["available"], memory["total"])  # of what the compiler refused
  largest = sorted((p for p in _PARTS if memory.get(p)), key=lambda p: -memory[p])
  named = ", ".join(f"{part} {memory[part] / GB:.1f} GB" for part in largest[:3])
  found = [
    f"{memory['total'] / GB:.1f} GB are needed, {memory['available'] / GB:.1f} GB are"
    f" available: {max(0.0, over) / GB:.1f} GB too much.",
    f"The largest: {named}.",
  ]
  end, lines = ways.follow(start, moves, need, room)
  found += lines
  if ways.fits(end, need, room) and lines:
    found.append(f"By estimate it fits with: {end.text}")
  else:
    found.append(
      f"{'With all of that it' if lines else 'It'} still does not fit on these"
      f" {_count(start.axes)} devices."
    )
  return found, end


def _count(axes: dict[str, int]) -> int:
  return math.prod(axes.values())


def _extents(way: Way, params: int) -> tuple[float, float, float]:
  """A device's state, batch and work, up to factors that no change touches."""
  config, axes = way.filled, way.axes
  over = partition.row_ways(axes)
  batch = config.data.rows * config.train.accumulate / over
  moments = 2 if config.optimizer.moments_dtype == "bfloat16" else 4
  state = (8 + 2 * moments) / (axes["fsdp"] * axes["tensor"] * axes["context"])
  if config.objective != "diffusion":
    return state, batch, config.data.rows / over
  memory = formula.memory(config, axes, params)
  return state, memory["batch"], sum(memory[part] for part in _WORK)


def _split_state(way: Way) -> Iterator[tuple[Way, str]]:
  axes = way.axes
  for times in range(axes["data"], 1, -1):
    if axes["data"] % times == 0:
      new = way.on(data=axes["data"] // times, fsdp=axes["fsdp"] * times)
      yield new, "splits the state further"


def _rows_in_turn(way: Way) -> Iterator[tuple[Way, str]]:
  """Fewer rows at once, the config's own total."""
  over = partition.row_ways(way.axes)
  turned = _turns(way, over)
  if turned is not None and turned != way:
    yield turned, "has a device process its rows one by one"


def _keep_attention(way: Way) -> Iterator[tuple[Way, str]]:
  if way.config.dit.remat in ("none", "dots"):
    yield way.having("dit", remat="attention"), "recomputes what the blocks save now"


def _keep_inputs(way: Way) -> Iterator[tuple[Way, str]]:
  if way.config.dit.remat == "attention":
    yield way.having("dit", remat="block"), "saves only the blocks' inputs"


def _split_rows(way: Way) -> Iterator[tuple[Way, str]]:
  axes = way.axes
  for axis in ("data", "fsdp"):
    if axes[axis] % 2 == 0:
      new = way.on(**{axis: axes[axis] // 2, "context": axes["context"] * 2})
      turned = _turns(new, partition.row_ways(new.axes))
      if turned is not None:
        yield turned, "halves the tokens of a device"


def _halve_moments(way: Way) -> Iterator[tuple[Way, str]]:
  if way.config.optimizer.moments_dtype == "float32":
    new = way.having("optimizer", moments_dtype="bfloat16")
    what = "saves a quarter of the state"
    yield new, what
    yield new.having("optimizer", beta2=0.95), what


def _offload(way: Way) -> Iterator[tuple[Way, str]]:
  if way.config.dit.remat != "offload":
    yield way.having("dit", remat="offload"), "keeps what blocks save in host memory"


def _shorten_rows(way: Way) -> Iterator[tuple[Way, str]]:
  length = way.config.data.row_length
  if length % 2 == 0 and length > 1024:
    new = way.having("data", row_length=length // 2)
    yield new, "halves rows, for clips no longer"


def _turns(way: Way, rows: int) -> Way | None:
  """With at most `rows` rows at once, the rest in turn; None if they do not divide."""
  data, accumulate = way.config.data, way.config.train.accumulate
  if data.rows <= rows:
    return way
  if data.rows % rows:
    return None
  way = way.having("train", accumulate=accumulate * data.rows // rows)
  if data.balance_rows > 1:
    way = way.having("data", balance_rows=1)
  return way.having("data", rows=rows)
