"""Clips into rows, many rows at a time: each takes the longest clip that still fits.

All rows of a window are filled together: the first clips of all rows are the window's
longest, and the row with the shortest of them takes the longest second one. So rows have
nearly equal sums of their clips' squares, which is attention's work, as far as their
longest clips allow. One round gives every open row its next clip by sorting alone.
"""

import numpy as np

from video_dit import config

# A row that was offered clips with too much text this often is closed.
_MOST_OFFERS = 8


def fit(
  tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data
) -> tuple[np.ndarray, np.ndarray]:
  """Lays a stream of clips into rows, `data.lookahead` clips at a time.

  A clip that fits no row of its window waits for the next one. The last window has as
  many rows as it needs, and spreads the empty space evenly over them.

  Args:
    tokens, text_tokens: `(n,)` of each clip, within `row_length` and `row_text`.
    data: the limits of a row, and `lookahead`.

  Returns:
    `(n,)` int32 places in the stream, row after row, and `(rows + 1,)` where rows start.
  """
  num, done = len(tokens), 0
  waiting = np.empty(0, np.int64)
  places, sizes = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
  while done < num or len(waiting):
    come = min(num, done + max(0, data.lookahead - len(waiting)))
    waiting = np.concatenate([waiting, np.arange(done, come)])
    done = come
    waiting = waiting[np.argsort(-tokens[waiting], kind="stable")]
    here = tokens[waiting], text_tokens[waiting], data
    rows = least_rows(*here)
    row = _fill(*here, rows if done == num else max(1, rows - 1))
    while done == num and (over := row < 0).any():
      rows += least_rows(tokens[waiting[over]], text_tokens[waiting[over]], data)
      row = _fill(*here, rows)
    placed = row >= 0
    by_row = np.argsort(row[placed], kind="stable")
    places.append(waiting[placed][by_row].astype(np.int32))
    counts = np.bincount(row[placed], minlength=rows)
    sizes.append(counts[counts > 0])
    waiting = waiting[~placed]
  return np.concatenate(places), np.cumsum(np.concatenate(sizes), dtype=np.int32)


def least_rows(tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data) -> int:
  """A lower bound on the rows needed, by tokens, by text tokens and by number."""
  return max(
    -(-int(tokens.sum(dtype=np.int64)) // data.row_length),
    -(-int(text_tokens.sum(dtype=np.int64)) // data.row_text),
    -(-len(tokens) // data.row_segments),
  )


def _fill(
  tokens: np.ndarray, text_tokens: np.ndarray, data: config.Data, rows: int
) -> np.ndarray:
  """Fills rows with clips sorted by descending length.

  Rows are filled to a common height first, and to the brim with what is left over.

  Returns:
    `(n,)` the row of each clip, -1 where it is left over.
  """
  height = int(tokens.sum()) // rows + data.row_length // 64
  height = min(data.row_length, max(height, int(tokens[0])))
  row = np.full(len(tokens), -1, np.int64)
  left = np.full(rows, height, np.int64)
  text_left = np.full(rows, data.row_text, np.int64)
  slots = np.full(rows, data.row_segments, np.int64)
  waiting = np.arange(len(tokens))
  for more in (0, data.row_length - height):
    left += more
    longest = left.copy()  # longest clip a row takes; below `left` where text did not fit
    offers = np.full(rows, _MOST_OFFERS, np.int64)
    active = np.flatnonzero(slots)
    while len(waiting) and len(active):
      active = active[np.argsort(-longest[active], kind="stable")]
      pick = _longest_that_fit(tokens[waiting], longest[active])
      found = pick < len(waiting)
      active, pick = active[found], pick[found]
      clip = waiting[pick]
      fits = text_tokens[clip] <= text_left[active]
      longest[active[~fits]] = tokens[clip[~fits]] - 1
      offers[active[~fits]] -= 1
      to, clip = active[fits], clip[fits]
      row[clip] = to
      left[to] -= tokens[clip]
      text_left[to] -= text_tokens[clip]
      slots[to] -= 1
      longest[to] = left[to]
      waiting = np.delete(waiting, pick[fits])
      if len(waiting):
        is_open = (longest >= tokens[waiting[-1]]) & (slots > 0) & (offers > 0)
        active = active[is_open[active]]
  return row


def _longest_that_fit(tokens: np.ndarray, room: np.ndarray) -> np.ndarray:
  """The longest clip that fits, for each row; no clip twice.

  Args:
    tokens: of the clips, descending.
    room: of the rows, descending.

  Returns:
    Indices of clips, ascending; at or beyond `len(tokens)` where none is left.
  """
  turn = np.arange(len(room))
  first = np.searchsorted(-tokens, -room)
  return turn + np.maximum.accumulate(first - turn)
