"""Fill and speed of ways to put clips into rows, in one run.

    python tests/benchmarks/packing.py --clips=20000

Every way has the same clips in the same order and the same limits of tokens, text tokens
and clips a row. "planned" decides rows from lengths alone; "copied" also lays arrays of
one byte a token into them, which is what grain's packers do. Times are processor time of
one process.
"""

from collections.abc import Callable, Iterator
import time

from absl import app, flags
import grain
import numpy as np

from video_dit import config
from video_dit.data import pack

_CLIPS = flags.DEFINE_integer("clips", 20_000, "Clips of each mix.", lower_bound=1)
_BINS = flags.DEFINE_integer("bins", 64, "Rows that grain's packers keep open.")

Rows = Iterator[np.ndarray]
Clips = tuple[np.ndarray, np.ndarray]


def _mixes(num: int) -> dict[str, tuple[Clips, config.Data]]:
  """Made-up sets: tokens and text tokens of each clip, and the row for them."""
  rng = np.random.default_rng(0)
  grids = [4 * 4, 4 * 6, 6 * 6, 8 * 8, 6 * 10]
  frames = rng.choice([1, 3, 5], num, p=[0.3, 0.3, 0.4])
  shapes = frames * rng.choice(grids, num)
  web = np.exp(rng.normal(7.0, 1.2, num)).clip(64, 30_000)
  large = rng.choice([1_560, 3_520, 7_000, 11_000, 15_000, 18_000], num)
  text = rng.integers(4, 40, num)

  def made(tokens: np.ndarray, row: int) -> tuple[Clips, config.Data]:
    data = config.Data(row_length=row, row_segments=64, row_text=2048)
    return (tokens.astype(np.int32), text.astype(np.int32)), data

  return {
    "images and short clips, rows of 1,024": made(shapes, 1024),
    "log-normal, rows of 32,768": made(web, 32_768),
    "six large sizes, rows of 32,768": made(large, 32_768),
  }


def _padded(clips: Clips, data: config.Data) -> Rows:
  del data
  yield from np.arange(len(clips[0]))[:, None]


def _in_order(clips: Clips, data: config.Data) -> Rows:
  tokens, text = (column.tolist() for column in clips)
  row: list[int] = []
  left, text_left = data.row_length, data.row_text
  for i, (n, m) in enumerate(zip(tokens, text, strict=True)):
    if n > left or m > text_left or len(row) == data.row_segments:
      yield np.asarray(row)
      row, left, text_left = [], data.row_length, data.row_text
    row.append(i)
    left, text_left = left - n, text_left - m
  yield np.asarray(row)


def _ours(clips: Clips, data: config.Data) -> Rows:
  plan = pack.plan_epoch(*clips, data, seed=0, epoch=0, shuffle=False)
  yield from (plan.row(i) for i in range(len(plan)))


def _copied(clips: Clips, data: config.Data) -> Rows:
  source = np.ones(data.row_length, np.uint8)
  for row in _ours(clips, data):
    out = np.zeros(data.row_length + data.row_text, np.uint8)
    start, text_start = 0, data.row_length
    for n, m in zip(clips[0][row].tolist(), clips[1][row].tolist(), strict=True):
      out[start : start + n] = source[:n]
      out[text_start : text_start + m] = source[:m]
      start, text_start = start + n, text_start + m
    yield row


def _grain(packer: type) -> Callable[[Clips, config.Data], Rows]:
  def pack_rows(clips: Clips, data: config.Data) -> Rows:
    source = np.ones(data.row_length, np.uint8)
    examples = grain.MapDataset.range(len(clips[0])).map(
      lambda i: {"tokens": source[: clips[0][i]], "text": source[: clips[1][i]]}
    )
    rows = packer(
      examples.to_iter_dataset(grain.ReadOptions(num_threads=0)),
      length_struct={"tokens": data.row_length, "text": data.row_text},
      num_packing_bins=_BINS.value,
      shuffle_bins=False,
      max_sequences_per_bin=data.row_segments,
    )
    yield from (np.arange(row["tokens_segment_ids"].max()) for row in rows)

  return pack_rows


def main(argv: list[str]) -> None:
  """Prints one table a mix."""
  del argv
  ways = {
    "one clip a row": _padded,
    "in order": _in_order,
    "grain first-fit, copied": _grain(grain.experimental.FirstFitPackIterDataset),
    "grain best-fit, copied": _grain(grain.experimental.BestFitPackIterDataset),
    "ours, planned": _ours,
    "ours, copied": _copied,
  }
  for name, (clips, data) in _mixes(_CLIPS.value).items():
    print(f"\n{name}: {_CLIPS.value:,} clips of {clips[0].mean():,.0f} tokens")
    print(f"{'':26}{'fill':>8}{'rows':>9}{'clips/s':>12}")
    for way, pack_rows in ways.items():
      start = time.process_time()
      sizes = [len(row) for row in pack_rows(clips, data)]
      seconds = time.process_time() - start
      assert sum(sizes) == len(clips[0]), f"{way} lost clips"
      fill = clips[0].sum() / (len(sizes) * data.row_length)
      print(f"{way:26}{fill:8.2%}{len(sizes):9,}{len(clips[0]) / seconds:12,.0f}")


if __name__ == "__main__":
  app.run(main)
