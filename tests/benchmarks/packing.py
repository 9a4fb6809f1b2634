"""Ways to put clips into rows, in one run: tokens wasted, work imbalance, clips a second.

    taskset -c 1 python -m tests.benchmarks.packing --clips=20000 --json=packing.json

Every way has the same clips in the same order and the same limits of tokens, text tokens
and clips a row. Work is the sum of the squares of a row's segments, or of the lengths
that they are padded to; imbalance is the greatest over the mean of a step's shards, less
1, between single rows and between `--shards` groups of neighbouring rows: mean over the
steps, then what 19 of 20 steps stay below. "short" is the share of a step's tokens in
clips of at most an eighth of a row: its mean, and its standard deviation over steps.

"planned" decides rows from lengths alone; "packed" also lays arrays into them: 128 bytes
a token, its segment, its position, and the same of text tokens of 4 bytes. Grain's
packers do both at once. Times are processor time of one process.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import pathlib
import time

from absl import app, flags
import grain
import numpy as np

from tests.data import mixes
from video_dit import config
from video_dit.data import balance, pack

_CLIPS = flags.DEFINE_integer("clips", 20_000, "Clips of each mix.", lower_bound=1)
_ROWS = flags.DEFINE_integer("rows", 64, "Rows of a step.", lower_bound=1)
_SHARDS = flags.DEFINE_integer(
  "shards", 8, "Devices that share a step's rows.", lower_bound=1
)
_BINS = flags.DEFINE_integer("bins", 64, "Rows that grain's packers keep open.")
_WAYS = flags.DEFINE_string("ways", "", "Try only ways with this in their name.")
_JSON = flags.DEFINE_string("json", "", "Write the figures to this file, too.")

_WIDTH = 64  # float16 numbers of a token
_BUCKETS = 1.09  # from one bucket's length to the next


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
  """One row.

  Attributes:
    clips: numbers of its clips.
    slots: tokens that it has room for.
    work: of attention.
    padded: slots that each of its clips takes; 0 where they take what they need.
    is_rest: whether no whole step of its kind was left.
  """

  clips: np.ndarray
  slots: int
  work: float
  padded: int = 0
  is_rest: bool = False


Way = Callable[[mixes.Clips, config.Data], Iterator[Row]]


def _packed_row(clips: mixes.Clips, data: config.Data, row: np.ndarray) -> Row:
  return Row(row, data.row_length, float(np.square(clips[0][row], dtype=float).sum()))


def _longest(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  """One clip a row, padded to the longest of all."""
  del data
  longest = int(clips[0].max())
  for i in range(len(clips[0])):
    yield Row(np.array([i]), longest, float(longest) ** 2, longest)


def _buckets(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  """Steps of one bucket each: clips padded to its length, side by side in a row."""
  least, most = int(clips[0].min()), int(clips[0].max())
  num = 1 + int(np.ceil(np.log(most / least) / np.log(_BUCKETS)))
  edges = np.minimum(np.ceil(least * _BUCKETS ** np.arange(num)), most).astype(int)
  bucket = np.searchsorted(edges, clips[0])
  room = np.minimum(data.row_length // edges, data.row_segments)
  waiting: list[list[int]] = [[] for _ in edges]

  def emit(b: int, is_rest: bool = False) -> Iterator[Row]:
    taken, waiting[b] = waiting[b], []
    for start in range(0, len(taken), room[b]):
      row = np.array(taken[start : start + room[b]])
      work = float(room[b]) * edges[b] ** 2
      yield Row(row, data.row_length, work, int(edges[b]), is_rest)

  for i, b in enumerate(bucket.tolist()):
    waiting[b].append(i)
    if len(waiting[b]) == data.rows * room[b]:
      yield from emit(b)
  for b in range(len(edges)):
    yield from emit(b, is_rest=True)


def _in_order(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  row: list[int] = []
  left, text_left = data.row_length, data.row_text
  for i, (n, m) in enumerate(zip(clips[0].tolist(), clips[1].tolist(), strict=True)):
    if n > left or m > text_left or len(row) == data.row_segments:
      yield _packed_row(clips, data, np.array(row))
      row, left, text_left = [], data.row_length, data.row_text
    row.append(i)
    left, text_left = left - n, text_left - m
  yield _packed_row(clips, data, np.array(row))


def _grain(packer: type) -> Way:
  def rows(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
    patches = np.ones((data.row_length, _WIDTH), np.float16)
    text = np.ones(data.row_text, np.int32)
    examples = grain.MapDataset.range(len(clips[0])).map(
      lambda i: {
        "patches": patches[: clips[0][i]],
        "text": text[: clips[1][i]],
        "clip": np.array([i]),
      }
    )
    packed = packer(
      examples.to_iter_dataset(grain.ReadOptions(num_threads=0)),
      length_struct={
        "patches": data.row_length,
        "text": data.row_text,
        "clip": data.row_segments,
      },
      num_packing_bins=_BINS.value,
      shuffle_bins=False,
    )
    for row in packed:
      found = row["clip"][row["clip_segment_ids"] > 0]
      yield _packed_row(clips, data, found)

  return rows


def _ours(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  plan = pack.plan_epoch(*clips, data, seed=0, epoch=0)
  for i in range(len(plan)):
    yield Row(plan.row(i), data.row_length, plan.work[i])


def _each(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  """Equal work of every row."""
  yield from _ours(clips, dataclasses.replace(data, balance_rows=1))


def _shared(clips: mixes.Clips, data: config.Data) -> Iterator[Row]:
  """Equal work of every device."""
  rows = max(1, data.rows // _SHARDS.value)
  yield from _ours(clips, dataclasses.replace(data, balance_rows=rows))


def _lay(clips: mixes.Clips, data: config.Data, rows: Iterator[Row]) -> None:
  """Copies each row's payload into arrays that serve all rows."""
  tokens = max(data.row_length, int(clips[0].max()))
  texts = max(data.row_text, data.row_segments * int(clips[1].max()))
  source = np.ones((tokens, _WIDTH), np.float16)
  words, count = np.ones(texts, np.int32), np.arange(max(tokens, texts), dtype=np.int32)
  patches = np.empty_like(source)
  segments, positions = (np.empty(tokens, np.int32) for _ in range(2))
  text, text_segments, text_positions = (np.empty(texts, np.int32) for _ in range(3))
  for row in rows:
    start = text_start = 0
    of_text = clips[1][row.clips].tolist()
    for s, n in enumerate(clips[0][row.clips].tolist()):
      end, text_end = start + n, text_start + of_text[s]
      patches[start:end] = source[:n]
      segments[start:end] = s + 1
      positions[start:end] = count[:n]
      text[text_start:text_end] = words[: of_text[s]]
      text_segments[text_start:text_end] = s + 1
      text_positions[text_start:text_end] = count[: of_text[s]]
      if row.padded:
        patches[end : start + row.padded] = segments[end : start + row.padded] = 0
      start, text_start = start + (row.padded or n), text_end
    for array in (patches, segments, positions):
      array[start : row.slots] = 0
    for array in (text, text_segments, text_positions):
      array[text_start:] = 0


def _measure(
  way: str, rows: list[Row], clips: mixes.Clips, data: config.Data
) -> dict[str, float]:
  """What a way's rows are worth; see the head of this file."""
  tokens = clips[0]
  found = np.sort(np.concatenate([row.clips for row in rows]))
  assert np.array_equal(found, np.arange(len(tokens))), "a clip is lost or repeated"
  slots = sum(row.slots for row in rows)
  num = len(rows)
  rows = [row for row in rows if not row.is_rest]
  if len(rows) < data.rows:
    raise ValueError(
      f"--clips={len(tokens)}: {way!r} makes no whole step of --rows={data.rows} of them."
      " Ask for more clips, fewer rows, or other --ways."
    )
  whole = len(rows) // data.rows * data.rows
  steps = [rows[i : i + data.rows] for i in range(0, whole, data.rows)]
  work_SR = np.array([[row.work for row in step] for step in steps])
  inside = [np.concatenate([row.clips for row in step]) for step in steps]
  is_short = tokens <= data.row_length // 8
  short = [tokens[step][is_short[step]].sum() / tokens[step].sum() for step in inside]
  figures: dict[str, float] = {
    "wasted": 1 - float(tokens.sum()) / slots,
    "rows": num,
    "short": float(np.mean(short)),
    "short_deviation": float(np.std(short)),
  }
  for name, shards in (("rows", data.rows), ("shards", _SHARDS.value)):
    uneven = balance.imbalance(work_SR, shards)
    figures[f"imbalance_{name}"] = float(uneven.mean())
    figures[f"imbalance_{name}_95"] = float(np.quantile(uneven, 0.95))
  return figures


def _rate(run: Callable[[], object], num: int) -> float:
  """Clips a second: the best of three runs, or of fewer where they take long."""
  spent: list[float] = []
  while len(spent) < 3 and sum(spent) < 5:
    start = time.process_time()
    run()
    spent.append(time.process_time() - start)
  return num / min(spent)


def _try(
  way: str, make: Way, clips: mixes.Clips, data: config.Data, copies: bool
) -> dict[str, float]:
  """Measures one way; `copies` says that it lays out the payload by itself."""
  rows: list[Row] = []

  def plan() -> None:
    rows[:] = make(clips, data)

  num = len(clips[0])
  planned = _rate(plan, num)
  figures = _measure(way, rows, clips, data)
  if copies:
    return figures | {"packed": planned}
  packed = _rate(lambda: _lay(clips, data, make(clips, data)), num)
  return figures | {"planned": planned, "packed": packed}


def _table(name: str, clips: mixes.Clips, results: dict[str, dict[str, float]]) -> None:
  print(f"\n{name}: {len(clips[0]):,} clips of {clips[0].mean():,.0f} tokens")
  print(
    f"{'':24}{'wasted':>8}{'rows':>8}{'imbalance of rows':>19}{'of shards':>16}"
    f"{'short':>14}{'planned/s':>12}{'packed/s':>10}"
  )
  for way, r in results.items():
    planned = f"{r['planned']:,.0f}" if "planned" in r else ""
    print(
      f"{way:24}{r['wasted']:8.2%}{r['rows']:8,.0f}"
      f"{r['imbalance_rows']:10.2%}{r['imbalance_rows_95']:9.2%}"
      f"{r['imbalance_shards']:8.2%}{r['imbalance_shards_95']:8.2%}"
      f"{r['short']:7.1%} ±{r['short_deviation']:5.1%}"
      f"{planned:>12}{r['packed']:10,.0f}"
    )


def main(argv: list[str]) -> None:
  """Prints one table a mix.

  Raises:
    ValueError: clips that make no whole step, or shards that do not divide its rows.
  """
  del argv
  if _ROWS.value % _SHARDS.value:
    raise ValueError(
      f"--rows={_ROWS.value} does not divide over --shards={_SHARDS.value}. Choose a"
      " multiple of it."
    )
  num, rows = _CLIPS.value, _ROWS.value
  web = {
    row: config.Data(rows=rows, row_length=row, row_segments=64, row_text=4096)
    for row in (32_768, 65_536)
  }
  cases = {
    "images and clips, rows of 32,768": (mixes.web(num), web[32_768]),
    "images and clips, rows of 65,536": (mixes.web(num), web[65_536]),
    "four of five are images, rows of 32,768": (mixes.web(num, 0.8), web[32_768]),
    "clips only, rows of 32,768": (mixes.web(num, 0.0), web[32_768]),
    "the demo's 2,000 clips": (mixes.shapes(2_000), mixes.demo()),
  }
  first, best = (
    _grain(packer)
    for packer in (
      grain.experimental.FirstFitPackIterDataset,
      grain.experimental.BestFitPackIterDataset,
    )
  )
  ways: dict[str, Way] = {
    "pad to the longest": _longest,
    "buckets by size": _buckets,
    "in order": _in_order,
    "grain first-fit": first,
    "grain best-fit": best,
    "ours, even rows": _each,
    "ours, even shards": _shared,
  }
  figures = {}
  for name, (clips, data) in cases.items():
    figures[name] = {
      way: _try(way, make, clips, data, copies=make in (first, best))
      for way, make in ways.items()
      if _WAYS.value in way
    }
    _table(name, clips, figures[name])
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
  app.run(main)
