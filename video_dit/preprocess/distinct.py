"""Which clips are kept of those with the same bytes, and of those that look alike.

Only here are lines set against each other, in their order: rows wait on disk until the
last is known. What a clip looks like must stay itself, so failures come first.
"""

from collections.abc import Iterable, Iterator
import os
import pickle
import tempfile

from video_dit import config as config_lib
from video_dit.preprocess import decide, hashes
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import held as held_lib


def distinct(
  found: Iterable[list[decide.Row]],
  facts: facts_lib.Facts,
  config: config_lib.Config,
  folder: str | os.PathLike[str],
  held: held_lib.Held,
) -> Iterator[list[decide.Row]]:
  """Rejects clips that failed when they were encoded, and all but one of equal clips.

  Args:
    found: the rows of each line, in order.
    facts: tell which clips failed, and keep what was seen.
    config: settings.
    folder: where rows wait.
    held: clips that are kept in preference to others.

  Yields:
    The rows of each line.
  """
  facts.begin_duplicates()
  alike = hashes.Alike()
  with tempfile.TemporaryFile(dir=folder) as file:
    for rows in found:
      content = decide.content(rows)
      rows = [_failed(row, facts, config.media) for row in rows]
      pickle.dump((content, rows), file, pickle.HIGHEST_PROTOCOL)
      if content is None:
        continue
      # Equal bytes give equal clips: those of one line stand for all.
      is_held = any(held.has(row) for row in rows)
      is_first = facts.saw(content, rows[0]["line"], rows[0]["path"], is_held)
      if is_first and config.ingest.near_duplicates:
        for row in rows:
          if "reason" not in row and "hashes" in row:
            is_held = held.has_key(row["key"])
            alike.add(row["key"], row["hashes"], is_held=is_held)
    looks_like, end = alike.find(config.ingest.duplicate_bits), file.tell()
    file.seek(0)
    while file.tell() < end:
      content, rows = pickle.load(file)
      if content is not None:
        line, path = facts.seen(content)
        if line != rows[0]["line"]:
          rows = decide.same(rows, path)
        else:
          rows = [_alike(row, looks_like) for row in rows]
      yield rows


def _failed(
  row: decide.Row, facts: facts_lib.Facts, media: config_lib.Media
) -> decide.Row:
  failure = None if "reason" in row else facts.failure(row["key"], media)
  if failure is None:
    return row
  return row | {"reason": failure[0], "message": failure[1], "at_encoding": True}


def _alike(row: decide.Row, looks_like: dict[str, tuple[str, float]]) -> decide.Row:
  found = None if "reason" in row else looks_like.get(row["key"])
  return row if found is None else decide.alike(row, *found)
