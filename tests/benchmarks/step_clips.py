"""The clips of `tests/benchmarks/step.py`, as packed and as padded batches."""

import dataclasses
import pathlib

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
  """What the flags of the benchmark say; see there."""

  rows: int
  row_length: int
  row_segments: int
  grid: tuple[int, int, int]
  patch_dim: int
  text_width: int
  text_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
  """Extents of the clips that were written.

  Attributes:
    tokens, words: of each clip.
    fill: share of tokens that is data, by layout.
  """

  tokens: np.ndarray
  words: np.ndarray
  fill: dict[str, float]


def _clips(
  mix: Mix, rng: np.random.Generator
) -> list[list[tuple[tuple[int, int, int], int]]]:
  """Rows of clips, each its grid and caption tokens; every third one an image."""
  found = []
  for _ in range(mix.rows):
    row: list = []
    left = mix.row_length
    for _ in range(40 * mix.row_segments):
      grid = tuple(int(rng.integers(max(1, n // 2), n + 1)) for n in mix.grid)
      grid = (1, *grid[1:]) if rng.random() < 1 / 3 else grid
      if np.prod(grid) <= left and len(row) < mix.row_segments:
        text = mix.text_tokens + int(rng.integers(-2, 3))
        row.append((grid, text))
        left -= int(np.prod(grid))
    found.append(row)
  return found


def _batch(
  mix: Mix, rows, length: int, segments: int, text: int
) -> dict[str, np.ndarray]:
  """A batch of these rows, as the fields of `data.batch.Batch`.

  A clip's patches, caption and key depend on the clip alone, not on where it lies.
  """
  shape = len(rows), length
  batch = {
    "patches": np.zeros((*shape, mix.patch_dim), np.float16),
    "segments": np.zeros(shape, np.int32),
    "positions": np.zeros((*shape, 3), np.float32),
    "frames": np.zeros(shape, np.int32),
    "keys": np.zeros((len(rows), segments, 2), np.uint32),
    "tokens": np.zeros((len(rows), segments), np.int32),
    "weights": np.zeros((len(rows), segments), np.float32),
    "text": np.zeros((len(rows), text, mix.text_width), np.float16),
    "text_segments": np.zeros((len(rows), text), np.int32),
  }
  number = 0
  for r, row in enumerate(rows):
    at = text_at = 0
    for s, (grid, num_text) in enumerate(row):
      rng = np.random.default_rng(number)
      number += 1
      place = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)
      place_N3 = place.reshape(-1, 3)
      here = slice(at, at + len(place_N3))
      at += len(place_N3)
      batch["patches"][r, here] = rng.normal(size=(len(place_N3), mix.patch_dim))
      batch["segments"][r, here] = s + 1
      batch["positions"][r, here] = place_N3
      batch["frames"][r, here] = place_N3[:, 0]
      batch["keys"][r, s] = rng.integers(2**32, size=2, dtype=np.uint32)
      batch["tokens"][r, s], batch["weights"][r, s] = len(place_N3), 1
      words = slice(text_at, text_at + num_text)
      text_at += num_text
      batch["text"][r, words] = rng.normal(size=(num_text, mix.text_width))
      batch["text_segments"][r, words] = s + 1
  return batch


def write(mix: Mix, folder: pathlib.Path) -> Clips:
  """Writes the same clips as `packed.npz` and `padded.npz`."""
  rows = _clips(mix, np.random.default_rng(0))
  alone = [[clip] for row in rows for clip in row]
  tokens = np.array([np.prod(grid) for [(grid, _)] in alone])
  words = np.array([words for [(_, words)] in alone])
  text = max(sum(words for _, words in row) for row in rows)
  layouts = {
    "packed": _batch(mix, rows, mix.row_length, mix.row_segments, text),
    "padded": _batch(mix, alone, int(tokens.max()), 1, int(words.max())),
  }
  for name, batch in layouts.items():
    np.savez(folder / f"{name}.npz", **batch)
  fill = {name: float((batch["segments"] > 0).mean()) for name, batch in layouts.items()}
  return Clips(tokens=tokens.astype(float), words=words.astype(float), fill=fill)
