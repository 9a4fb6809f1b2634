"""Requests of any size and length, packed into rows of one shape.

As in training, a row holds segments end to end; unlike there, the rows come in groups
of a fixed number, so that one compiled sampler serves all groups.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from video_dit import config as config_lib
from video_dit.data import batch as batch_lib
from video_dit.data import patchify
from video_dit.generator import request as request_lib
from video_dit.models.text import encoder as text_lib

_TOGETHER = 64  # groups that are looked through at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """The one shape of a plan's groups of rows.

  Attributes:
    rows: rows of a group.
    length: tokens of a row.
    segments: most segments in a row.
    text: most caption tokens in a row.
  """

  rows: int
  length: int
  segments: int
  text: int


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a request lies: its index, and its row, segment and first token in a group."""

  index: int
  row: int
  segment: int
  start: int
  tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
  """Rows that are sampled together, as numpy arrays.

  Attributes:
    batch: the rows. `patches` hold the given latents and `weights` the guidance scale
      of each segment (1 where there is none).
    given: `(R, N)` bool, tokens that are given and stay as they are.
    negative_text, negative_segments: as `batch.text` and `batch.text_segments`, with
      the prompts that guidance leads away from.
    places: where each request lies.
  """

  batch: batch_lib.Batch
  given: np.ndarray
  negative_text: np.ndarray
  negative_segments: np.ndarray
  places: tuple[Place, ...]


def sizes(
  requests: Sequence[request_lib.Request],
  grid: config_lib.Grid,
  encoder: text_lib.TextEncoder,
) -> tuple[list[int], list[int]]:
  """Tokens and text tokens that each request takes in a row.

  Both the prompt and the negative one must fit, each in its own text.
  """
  tokens = [math.prod(grid.tokens(r.height, r.width, r.frames)) for r in requests]
  pairs = ((r.prompt, r.negative) for r in requests)
  return tokens, [max(len(encoder.tokens(text)) for text in pair) for pair in pairs]


def plan(
  requests: Sequence[request_lib.Request],
  tokens: Sequence[int],
  text_tokens: Sequence[int],
  shape: Shape,
) -> list[tuple[Place, ...]]:
  """Assigns requests to rows: longest first, onto the emptiest row of a group.

  Args:
    requests: named in errors.
    tokens: tokens of each request.
    text_tokens: text tokens that each request takes in a row.
    shape: of a group.

  Returns:
    The places of each group.

  Raises:
    ValueError: a request is longer than a row, or its prompt than a row's text.
  """
  for request, num, num_text in zip(requests, tokens, text_tokens, strict=True):
    if num > shape.length:
      raise ValueError(
        f"{request}: takes {num} tokens, a sampling row holds {shape.length}. Ask for a"
        " smaller or shorter clip, or raise config.sample.row_length."
      )
    if num_text > shape.text:
      raise ValueError(
        f"{request}: the prompt takes {num_text} text tokens, a row holds {shape.text}."
        " Shorten it, or raise config.data.row_text."
      )
  order = sorted(range(len(requests)), key=lambda i: -tokens[i])
  groups: list[list[Place]] = []
  # Of each group (R, 3): tokens, text tokens and segments used; the last is empty.
  used = np.zeros((1, shape.rows, 3), np.int64)
  limits = np.array([shape.length, shape.text, shape.segments])
  full: dict[tuple[int, int], int] = {}  # groups without room, by what is needed
  for i in order:
    need = np.array([tokens[i], text_tokens[i], 1])
    number = _first_with_room(used, limits - need, full.get((*need[:2],), 0))
    full[(*need[:2],)] = number
    if number == len(groups):
      groups.append([])
    if len(groups) == len(used):
      used = np.concatenate([used, np.zeros_like(used)])
    rows = used[number]
    fits = np.all(rows <= limits - need, axis=1)
    row = int(np.argmin(np.where(fits, rows[:, 0], shape.length + 1)))
    segment, start = int(rows[row, 2]) + 1, int(rows[row, 0])
    groups[number].append(Place(i, row, segment, start, tokens[i]))
    rows[row] += need
  return [tuple(group) for group in groups]


def _first_with_room(used: np.ndarray, most: np.ndarray, first: int) -> int:
  """The first group, from `first` on, with a row that has at most so much in use."""
  while True:
    fits = np.all(used[first : first + _TOGETHER] <= most, axis=2).any(axis=1)
    if fits.any():
      return first + int(fits.argmax())
    first += _TOGETHER


def assemble(
  places: Sequence[Place],
  requests: Sequence[request_lib.Request],
  texts: Sequence[np.ndarray],
  negatives: Sequence[np.ndarray],
  given: Sequence[np.ndarray | None],
  *,
  shape: Shape,
  grid: config_lib.Grid,
  channels: int,
  dit: config_lib.DiT,
  guidance: float,
) -> Group:
  """Lays one group's requests into its rows.

  Args:
    places: of the group, from `plan`.
    requests: all requests.
    texts: `(tokens, E)` encoding of each request's prompt.
    negatives: the same of their negative prompts.
    given: `(t, h, w, c)` latent of each request's given frames, or None.
    shape: of the group.
    grid: of the autoencoder and the patch.
    channels: latent channels.
    dit: decides patch and positions.
    guidance: scale of requests that name none.
  """
  rows, length = shape.rows, shape.length
  batch = batch_lib.blank(
    rows,
    length,
    shape.segments,
    shape.text,
    patch_dim=channels * int(np.prod(dit.patch)),
    text_width=texts[0].shape[1],
    dtype=np.float32,
  )
  batch.weights[:] = 1.0
  group = Group(
    batch=batch,
    given=np.zeros((rows, length), bool),
    negative_text=np.zeros_like(batch.text),
    negative_segments=np.zeros_like(batch.text_segments),
    places=tuple(places),
  )
  for place in places:
    request, row = requests[place.index], place.row
    here = slice(place.start, place.start + place.tokens)
    t, h, w = grid.tokens(request.height, request.width, request.frames)
    batch.segments[row, here] = place.segment
    batch.positions[row, here] = patchify.positions(
      (t, h, w),
      dit=dit,
      time=grid.time,
      frames_per_second=request.frames_per_second,
    )
    batch.frames[row, here] = patchify.frames((t, h, w), dit.patch)
    column = place.segment - 1
    batch.keys[row, column] = (request.seed & 0xFFFFFFFF, request.seed >> 32)
    batch.tokens[row, column] = place.tokens
    scale = guidance if request.guidance is None else request.guidance
    batch.weights[row, column] = scale
    for text, segments, encodings in (
      (batch.text, batch.text_segments, texts),
      (group.negative_text, group.negative_segments, negatives),
    ):
      _append(text[row], segments[row], encodings[place.index], place.segment)
    latent = given[place.index]
    if latent is not None:
      patches = np.asarray(patchify.patchify(latent, dit.patch))
      known = slice(place.start, place.start + patches.shape[0])
      batch.patches[row, known] = patches
      group.given[row, known] = True
  return group


def _append(
  text_LE: batch_lib.Array, segments_L: batch_lib.Array, add_LE: np.ndarray, segment: int
):
  """Puts a caption's tokens after the last caption in the row."""
  assert isinstance(text_LE, np.ndarray) and isinstance(segments_L, np.ndarray)
  start = int(np.count_nonzero(segments_L))
  text_LE[start : start + len(add_LE)] = add_LE
  segments_L[start : start + len(add_LE)] = segment
