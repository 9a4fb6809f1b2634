"""Rows: every request in one place, in rows of one shape."""

import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.generator import request as request_lib
from video_dit.generator import rows

GRID = config_lib.Grid(space=4, time=4, patch=(1, 2, 2))
SHAPE = rows.Shape(rows=2, length=64, segments=3, text=12)
DIT = config_lib.DiT(width=32, depth=1, heads=2)


def make(frames=1, height=32, width=32, **changes) -> request_lib.Request:
  return request_lib.Request(
    prompt="a clip", height=height, width=width, frames=frames, **changes
  )


def plan(tokens, text=2, shape=SHAPE):
  requests = [make()] * len(tokens)
  return rows.plan(requests, tokens, [text] * len(tokens), shape)


def test_every_request_has_one_place_and_limits_hold():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 65, 40).tolist()
  groups = plan(tokens)
  places = [place for group in groups for place in group]
  assert sorted(place.index for place in places) == list(range(40))
  for group in groups:
    for row in range(SHAPE.rows):
      mine = sorted((p for p in group if p.row == row), key=lambda p: p.start)
      assert [p.segment for p in mine] == list(range(1, len(mine) + 1))
      assert len(mine) <= SHAPE.segments
      ends = [0, *np.cumsum([p.tokens for p in mine]).tolist()]
      assert [p.start for p in mine] == ends[:-1]
      assert ends[-1] <= SHAPE.length


def _plainly(tokens, texts, shape) -> list[tuple[rows.Place, ...]]:
  """The rule: longest first, onto the emptiest row of the first group with room."""
  groups, used = [], []
  for i in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
    need = np.array([tokens[i], texts[i], 1])
    limits = np.array([shape.length, shape.text, shape.segments])
    for number in range(len(groups) + 1):
      if number == len(groups):
        groups.append(())
        used.append(np.zeros((shape.rows, 3), int))
      fit = [r for r in range(shape.rows) if (used[number][r] + need <= limits).all()]
      if fit:
        row = min(fit, key=lambda row: used[number][row, 0])
        start, _, segments = used[number][row].tolist()
        groups[number] += (rows.Place(i, row, segments + 1, start, tokens[i]),)
        used[number][row] += need
        break
  return groups


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_that_of_the_plain_rule(seed):
  rng = np.random.default_rng(seed)
  num, sizes = int(rng.integers(0, 600)), int(rng.integers(1, 65))
  tokens = (1 + rng.integers(0, sizes, num)).tolist()
  texts = rng.integers(1, 13, num).tolist()
  shape = rows.Shape(rows=int(rng.integers(1, 5)), length=64, segments=3, text=12)
  assert rows.plan([make()] * num, tokens, texts, shape) == _plainly(tokens, texts, shape)


def test_work_is_spread_over_the_rows():
  ((a, b),) = plan([20, 20])
  assert {a.row, b.row} == {0, 1}


def test_text_and_segments_limit_a_row_too():
  assert len(plan([1] * 6)) == 1
  assert len(plan([1] * 7)) == 2
  assert len(plan([1] * 3, text=7)) == 2


def test_too_long_is_refused_with_the_remedy():
  with pytest.raises(ValueError, match=r"65 tokens, a sampling row holds 64.*row_length"):
    plan([65])
  with pytest.raises(ValueError, match=r"13 text tokens, a row holds 12.*row_text"):
    plan([1], text=13)


def test_assembled_rows_hold_segments_text_and_given_latents():
  requests = [
    make(frames=9, seed=2**40 + 7, guidance=3.0, given_FHWC=np.zeros((1, 32, 32, 3))),
    make(seed=1),
  ]
  texts = [np.full((4, 6), 2.0, np.float32), np.full((2, 6), 3.0, np.float32)]
  negatives = [np.full((1, 6), 9.0, np.float32), np.full((3, 6), 8.0, np.float32)]
  given = [np.full((1, 8, 8, 5), 0.5, np.float32), None]
  (places,) = rows.plan(requests, [48, 16], [4, 2], SHAPE)
  group = rows.assemble(
    places,
    requests,
    texts,
    negatives,
    given,
    shape=SHAPE,
    grid=GRID,
    channels=5,
    dit=DIT,
    guidance=1.5,
  )
  batch = group.batch
  assert batch.patches.shape == (2, 64, 20)
  first = next(p for p in places if p.index == 0)
  other = next(p for p in places if p.index == 1)
  assert (batch.segments[first.row] > 0).sum() == 48
  assert batch.keys[first.row, 0].tolist() == [7, 2**8]
  assert batch.weights[first.row].tolist() == [3.0, 1.0, 1.0]
  assert batch.weights[other.row, 0] == 1.5
  assert batch.frames[first.row, :48:16].tolist() == [0, 1, 2]
  assert group.given.sum() == 16 and group.given[first.row, :16].all()
  assert (batch.patches[first.row, :16] == 0.5).all()
  assert (batch.patches[first.row, 16:] == 0).all()
  assert batch.text_segments[first.row].tolist() == [1] * 4 + [0] * 8
  assert group.negative_segments[first.row].tolist() == [1] + [0] * 11
  assert group.negative_segments[other.row].tolist() == [1] * 3 + [0] * 9
  assert (group.negative_text[first.row, 0] == 9).all()
  assert (group.negative_text[other.row, :3] == 8).all()
  assert batch.positions.dtype == np.float32
