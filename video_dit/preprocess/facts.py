"""What is known of the input, on disk: its lines, and the facts of each file.

Files are examined once. Their facts are kept by path, size, time of change and the
settings that matter, so that a killed run continues, a grown folder costs only its new
files, and a changed limit costs nothing. SQLite keeps it whole through a kill, and
nothing of it in memory.
"""

from collections.abc import Iterable, Iterator
import contextlib
import hashlib
import json
import os
import pathlib
import sqlite3
import stat as stat_lib
import time
from typing import Any

from absl import logging

from video_dit import config as config_lib
from video_dit.data import disk as disk_lib
from video_dit.preprocess import inputs

# Increment when the same file gives different facts.
VERSION = 6
_INGEST = config_lib.Ingest()
# Reasons that need not hold for the next run, though nothing seems to have changed.
_ELSEWHERE = ("unreachable", "changed")
_PAGE = 512
_COMMIT_SECONDS = 1.0
# A remote output's facts are kept on this machine, which may be gone tomorrow.
_PUBLISH_SECONDS, _AGAIN_SECONDS = 600.0, 60.0


class Facts:
  """The lines of this run, and the facts of every file that any run has seen."""

  def __init__(self, path: str | os.PathLike[str], disk: disk_lib.Disk = disk_lib.LOCAL):
    """Opens or makes the file.

    Args:
      path: of the file.
      disk: where it is to appear, from time to time and if a run ends early.
    """
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    self.path = str(path)
    self._disk = disk
    try:
      self._open()
    except sqlite3.DatabaseError as error:
      if not _is_damage(error):
        raise
      logging.warning(
        "%s is damaged (%s) and set aside as %s: all files are examined anew.",
        *(self.path, error, self._set_aside()),
      )
      self._open()
    self._committed = time.monotonic()
    self._publish_at = self._committed + _PUBLISH_SECONDS

  def _open(self) -> None:
    self._database = sqlite3.connect(self.path, timeout=60)
    self._database.executescript(
      """
      CREATE TABLE IF NOT EXISTS facts (
        id BLOB PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS failed (
        key TEXT PRIMARY KEY, reason TEXT NOT NULL, message TEXT NOT NULL,
        seconds REAL NOT NULL, id BLOB) WITHOUT ROWID;
      DROP TABLE IF EXISTS failures; -- of earlier versions, without the file's id
      CREATE TABLE IF NOT EXISTS lines (
        number INTEGER PRIMARY KEY, id BLOB, line TEXT NOT NULL);
      """
    )

  def __enter__(self) -> "Facts":
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    try:
      self._database.commit()
    except sqlite3.DatabaseError as late:
      error = error or late
    finally:
      self._database.close()
    if _is_damage(error):
      raise ValueError(
        f"{self.path}: was damaged ({error}), and is set aside as {self._set_aside()}."
        " Run again: all files are examined anew."
      ) from error
    if error is not None:
      with contextlib.suppress(Exception):  # The first error is the one reported.
        self._publish()
    if isinstance(error, sqlite3.OperationalError):
      raise ValueError(
        f"{self.path}: could not save what is known of the files ({error}). What was"
        " known some seconds ago is safe. Make room, or give write access, and run"
        " again."
      ) from error

  def _set_aside(self) -> pathlib.Path:
    """Gives a damaged file another name, which is returned."""
    self._database.close()
    path = pathlib.Path(self.path)
    aside = path.with_name(path.name + ".damaged")
    path.replace(aside)
    path.with_name(path.name + "-journal").unlink(missing_ok=True)
    self._disk.remove(path)
    return aside

  def set_lines(
    self,
    lines: Iterable[inputs.Line],
    media: config_lib.Media,
    ingest: config_lib.Ingest = _INGEST,
  ) -> int:
    """Begins a run: replaces its lines by these, and returns their number.

    Args:
      lines: of the input.
      media, ingest: settings, some of which decide a file's facts.
    """
    execute = self._database.execute
    execute("DELETE FROM lines")
    count = 0
    for count, line in enumerate(lines, 1):
      text = json.dumps(vars(line), ensure_ascii=True)
      row = (count, _identity(line, media, ingest), text)
      execute("INSERT INTO lines VALUES (?, ?, ?)", row)
    self._forget_passed()
    self._database.commit()
    return count

  def _forget_passed(self) -> None:
    """Forgets failures of files that have changed since, or may be there again.

    A file that changed after it was examined is examined again, even where it looks as
    before: its facts may be those of what it was in between.
    """
    self._database.execute(
      """DELETE FROM facts
        WHERE id IN (SELECT id FROM failed WHERE reason = 'changed')"""
    )
    self._database.execute(
      f"""DELETE FROM failed WHERE reason IN {_ELSEWHERE}
        OR id NOT IN (SELECT id FROM lines WHERE id IS NOT NULL)"""
    )

  def unseen(self, media: config_lib.Media) -> Iterator[tuple[bytes, inputs.Line]]:
    """Yields each file without facts once, in the order of the lines.

    A file that could not be reached is tried again, and one that took too long where it
    may now take longer.
    """
    query = """SELECT number, lines.id, line, facts FROM lines
      LEFT JOIN facts ON facts.id = lines.id WHERE number > ? ORDER BY number LIMIT ?"""
    for _, id, line, facts in self._pages(query):
      if id is not None and (facts is None or self._retry(json.loads(facts), media)):
        yield id, inputs.from_json(json.loads(line))

  def num_unseen(self, media: config_lib.Media) -> int:
    """How many files `unseen` yields."""
    return sum(1 for _ in self.unseen(media))

  def put(self, id: bytes, facts: dict[str, Any]) -> None:
    """Stores the facts of a file; on disk within a second or so."""
    row = (id, json.dumps(facts))
    self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", row)
    if time.monotonic() > self._committed + _COMMIT_SECONDS:
      self.commit()

  def commit(self) -> None:
    """Commits everything stored to disk."""
    self._database.commit()
    if time.monotonic() > self._publish_at:
      try:
        self._publish()
      except Exception as error:  # Examining continues.
        logging.warning("%s has not been saved to the output yet: %s", self.path, error)
        self._publish_at = time.monotonic() + _AGAIN_SECONDS
    self._committed = time.monotonic()

  def _publish(self) -> None:
    begun = time.monotonic()
    self._disk.wrote(pathlib.Path(self.path))
    taken = time.monotonic() - begun
    self._publish_at = time.monotonic() + max(_PUBLISH_SECONDS, 20 * taken)

  def records(self, media: config_lib.Media) -> Iterator[dict[str, Any]]:
    """Yields number, id, line and known facts of every line, fit for JSON, in order."""
    query = """SELECT number, lines.id, line, facts FROM lines
      LEFT JOIN facts ON facts.id = lines.id WHERE number > ? ORDER BY number LIMIT ?"""
    for number, id, line, facts in self._pages(query):
      known = None if facts is None else json.loads(facts)
      if known is not None and self._retry(known, media):
        known = None
      name = None if id is None else id.hex()
      yield {"number": number, "id": name, "line": json.loads(line), "known": known}

  def lines(self) -> Iterator[tuple[int, inputs.Line, dict[str, Any] | None]]:
    """Yields number, line and facts of every line, in order."""
    query = """SELECT number, line, facts FROM lines
      LEFT JOIN facts ON facts.id = lines.id WHERE number > ? ORDER BY number LIMIT ?"""
    for number, line, facts in self._pages(query):
      known = None if facts is None else json.loads(facts)
      yield number, inputs.from_json(json.loads(line)), known

  def line(self, number: int) -> tuple[inputs.Line, dict[str, Any]]:
    """One line of the run and its facts."""
    query = """SELECT line, facts FROM lines
      LEFT JOIN facts ON facts.id = lines.id WHERE number = ?"""
    line, facts = self._database.execute(query, (number,)).fetchone()
    return inputs.from_json(json.loads(line)), json.loads(facts)

  def caption(self, number: int) -> str:
    """The caption of one line, from the input or from its data set's record."""
    line, known = self.line(number)
    return known["caption"] if line.caption is None else line.caption

  def forget_failures(self) -> None:
    """Lets failures whose cause may lie outside the file be retried."""
    self._database.execute("DELETE FROM failed")
    self._database.execute(
      """DELETE FROM facts
        WHERE json_extract(facts, '$.reason') IN ('timeout', 'crashed', 'error')"""
    )
    self.commit()

  def fail(
    self, key: str, reason: str, message: str, *, seconds: float, line: int
  ) -> None:
    """Records why a clip could not be decoded though its file had passed.

    Args:
      key: of the clip.
      reason, message: why.
      seconds: the limit on its time.
      line: number of its file's line; as long as that file stays the same, so does this.
    """
    self._database.execute(
      """INSERT OR REPLACE INTO failed
        VALUES (?, ?, ?, ?, (SELECT id FROM lines WHERE number = ?))""",
      (key, reason, message, seconds, line),
    )
    self.commit()

  def failure(self, key: str, media: config_lib.Media) -> tuple[str, str] | None:
    """Reason and message of a clip that could not be decoded."""
    query = "SELECT reason, message, seconds FROM failed WHERE key = ?"
    row = self._database.execute(query, (key,)).fetchone()
    if row is None or (row[0] == "timeout" and media.timeout_seconds > row[2]):
      return None
    return row[0], row[1]

  def begin_duplicates(self) -> None:
    """Forgets which files were seen in this run."""
    self._database.execute("DROP TABLE IF EXISTS temp.seen")
    self._database.execute(
      """CREATE TEMP TABLE seen (
        content TEXT PRIMARY KEY, line INTEGER, path TEXT, held INTEGER) WITHOUT ROWID"""
    )

  def saw(self, content: str, line: int, path: str, is_held: bool) -> bool:
    """Records a line that holds this content; returns whether it is the first one."""
    found = self._seen(content)
    if found is None or (is_held and not found[2]):
      row = (content, line, path, is_held)
      self._database.execute("INSERT OR REPLACE INTO temp.seen VALUES (?, ?, ?, ?)", row)
    return found is None

  def seen(self, content: str) -> tuple[int, str]:
    """Number and path of the line kept for this content: held, or the first."""
    found = self._seen(content)
    assert found is not None
    return found[:2]

  def _seen(self, content: str) -> tuple[int, str, bool] | None:
    query = "SELECT line, path, held FROM temp.seen WHERE content = ?"
    return self._database.execute(query, (content,)).fetchone()

  def _retry(self, facts: dict[str, Any], media: config_lib.Media) -> bool:
    if facts.get("reason") == "timeout":
      return media.timeout_seconds > facts["timeout_seconds"]
    return facts.get("reason") in _ELSEWHERE

  def _pages(self, query: str) -> Iterator[tuple]:
    """Reads page by page, so that rows may be written in between."""
    last = 0
    while rows := self._database.execute(query, (last, _PAGE)).fetchall():
      yield from rows
      last = rows[-1][0]


def _is_damage(error: BaseException | None) -> bool:
  """Whether an error of SQLite says that its file is damaged."""
  return type(error) is sqlite3.DatabaseError


def _identity(
  line: inputs.Line, media: config_lib.Media, ingest: config_lib.Ingest
) -> bytes | None:
  """What the facts of a line depend on; None for a line that has none."""
  if line.error is not None:
    return None
  parts: list[Any] = [VERSION, line.file, line.record]
  if line.stamp:
    parts.append(line.stamp)
  elif line.record is None:
    try:
      stat = os.stat(line.file)
    except (OSError, ValueError):
      return None
    if not stat_lib.S_ISREG(stat.st_mode):
      return None
    parts += [stat.st_size, stat.st_mtime_ns]
  parts += [line.start_seconds, line.end_seconds]
  # Without a rate that is wanted, facts have the file's own, which once was as declared.
  parts += [media.frames_per_second or "as decoded", media.min_side]
  parts += [media.max_source_pixels]
  parts += [media.max_seconds, media.keep_truncated]
  parts += [ingest.measure, ingest.side, ingest.samples_per_second, ingest.shots]
  if ingest.shots != "off":
    parts += [ingest.shot_threshold, ingest.shot_frames]
  return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
