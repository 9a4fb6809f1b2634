"""Packing by index: which clips share a row, planned ahead from the index alone.

An epoch's plan is a function of (seed, epoch): the clips are shuffled, laid into rows,
and the rows ordered so that those of one step carry equal work. Nothing is dropped or
repeated within an epoch.
"""

import dataclasses
import math

import numpy as np

from video_dit import config
from video_dit.data import balance, fit, search

# Rows this full are left as they are; emptier ones are packed again by search.
_FULL = 0.99
# Pieces on which the search has to prove its gain before it runs on all, and the most
# that it runs on: a few million take a minute.
_TRIAL = 4096
_MOST_SEARCHED = 1_000_000
# Rows emptier than this have a reason that is worth knowing.
_LOW = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """The rows of one epoch.

  Attributes:
    order: `(n,)` int32, pieces in the order of the rows.
    copies: `(n,)` int32 like `order`, how often each has come before in the epoch; None
      where each comes once.
    starts: `(rows + 1,)` int32, where each row starts in `order`.
    fill: share of the rows' tokens that is data.
    text_fill: share of the rows' text tokens that is captions.
    work: `(rows,)` float64, sum of the squares of each row's segments.
  """

  order: np.ndarray
  starts: np.ndarray
  fill: float
  text_fill: float
  work: np.ndarray
  copies: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.starts) - 1

  def row(self, i: int) -> np.ndarray:
    """Pieces of row i."""
    return self.order[self.starts[i] : self.starts[i + 1]]


def limit(plan: Plan, data: config.Data) -> str:
  """Which limit leaves rows less than nine tenths full, and what to raise; else empty."""
  tokens = round(plan.fill * len(plan) * data.row_length)
  if plan.fill >= _LOW or len(plan) <= -(-tokens // data.row_length):
    return ""
  clips = len(plan.order) / len(plan)
  shares = {"row_text": plan.text_fill, "row_segments": clips / data.row_segments}
  tight = [key for key, share in shares.items() if share > plan.fill]
  if not tight:
    return (
      "by the clips' lengths, few of which share a row: raise data.row_length, or choose"
      " one that is close to a multiple of theirs"
    )
  key = max(tight, key=lambda name: shares[name])
  what = {"row_text": "captions fill", "row_segments": "as many clips fill"}[key]
  enough = (
    f"data.{name}={math.ceil(getattr(data, name) * shares[name] / plan.fill / 64) * 64}"
    for name in tight
  )
  said = f"{what} {shares[key]:.0%} of data.{key}={getattr(data, key)}"
  return f"{said}: full rows need about {' and '.join(enough)}"


def plan_epoch(
  tokens: np.ndarray,
  text_tokens: np.ndarray,
  data: config.Data,
  seed: int,
  epoch: int,
  *,
  head: int = 0,
  shuffle: bool = True,
) -> Plan:
  """Plans the rows of one epoch.

  Args:
    tokens, text_tokens: `(n,)` of each piece, within `row_length` and `row_text`.
    data: the limits of a row, `rows` of a step, and `lookahead`.
    seed, epoch: decide the order.
    head: first rows, which complete a step begun by the epoch before. It orders
      the rows and changes none.
    shuffle: or lay the pieces out as they come and order the rows by their first piece,
      as held-out data do: steps are then samples of the whole, of unequal work.
  """
  order = np.arange(len(tokens), dtype=np.int32)
  rng = np.random.default_rng([seed, epoch])
  if shuffle:
    order = rng.permutation(order)
  tokens = np.asarray(tokens[order], np.int64)
  text_tokens = np.asarray(text_tokens[order], np.int64)
  places, starts = _rows(tokens, text_tokens, data)
  work = balance.work(tokens[places], starts)
  if shuffle:
    level = float(work.sum()) * data.row_length / max(int(tokens.sum()), 1)
    rows = balance.arrange(work, data.rows, data.balance_rows, head, level, rng)
  else:
    rows = np.argsort(np.minimum.reduceat(places, starts[:-1]))
  places, starts = _reorder(places, starts, rows)
  num = max(len(rows), 1)
  return Plan(
    order=order[places],
    starts=starts,
    fill=float(tokens.sum()) / (num * data.row_length),
    text_fill=float(text_tokens.sum()) / (num * data.row_text),
    work=work[rows],
  )


def _rows(
  tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data
) -> tuple[np.ndarray, np.ndarray]:
  """Lays a stream of pieces into rows; returns places in the stream and rows' starts."""
  made = fit.fit(tokens, text_tokens, data)
  is_full = fit.least_rows(tokens, text_tokens, data) >= _FULL * (len(made[1]) - 1)
  if is_full or len(tokens) > _MOST_SEARCHED:
    return made
  trial = tokens[:_TRIAL], text_tokens[:_TRIAL], data
  if len(search.search(*trial)[1]) >= len(fit.fit(*trial)[1]):
    return made
  return min(made, search.search(tokens, text_tokens, data), key=lambda way: len(way[1]))


def _reorder(
  places: np.ndarray, starts: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Puts rows into another order."""
  sizes = np.diff(starts)[rows]
  ends = np.cumsum(sizes, dtype=np.int32)
  shift = np.repeat(starts[rows] - (ends - sizes), sizes)
  return places[shift + np.arange(len(places))], np.concatenate([[0], ends]).astype(
    np.int32
  )
