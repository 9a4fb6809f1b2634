"""Facts outlive the run that found them, and no longer than they are true."""

import dataclasses
import os
import shutil
import time

import pytest

from video_dit import config as config_lib
from video_dit.data import disk as disk_lib
from video_dit.preprocess import facts as facts_lib
from video_dit.preprocess import inputs

MEDIA = config_lib.Media()


def _lines(folder):
  return [inputs.Line(path=p.name, file=str(p)) for p in sorted(folder.iterdir())]


def _unseen(facts, media=MEDIA):
  return [line.path for _, line in facts.unseen(media)]


def test_files_are_unseen_until_known_and_again_when_changed(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  for name in ("a", "b", "c"):
    (folder / name).write_text(name)
  path = tmp_path / "work" / "facts.sqlite"
  with facts_lib.Facts(path) as facts:
    assert facts.set_lines(_lines(folder), MEDIA) == 3
    for id, line in facts.unseen(MEDIA):
      facts.put(id, {"frames": ord(line.path)})
  with facts_lib.Facts(path) as facts:
    facts.set_lines(_lines(folder), MEDIA)
    assert _unseen(facts) == []
    assert [known["frames"] for _, _, known in facts.lines()] == [97, 98, 99]
    os.utime(folder / "b", ns=(1, 1))
    (folder / "d").write_text("d")
    facts.set_lines(_lines(folder), MEDIA)
    assert _unseen(facts) == ["b", "d"]
    # A limit on clips asks nothing of the files; their rate of frames does.
    longer = dataclasses.replace(MEDIA, max_frames=7, workers=9)
    facts.set_lines(_lines(folder), longer)
    assert _unseen(facts, longer) == ["b", "d"]
    slower = dataclasses.replace(MEDIA, frames_per_second=1.0)
    facts.set_lines(_lines(folder), slower)
    assert len(_unseen(facts, slower)) == 4


@pytest.mark.parametrize(
  ("settings", "names"),
  [
    (
      config_lib.Media(),
      {"frames_per_second", "min_side", "max_source_pixels", "max_seconds"}
      | {"keep_truncated"},
    ),
    (
      config_lib.Ingest(shots="content"),
      {"measure", "side", "samples_per_second", "shots", "shot_threshold"}
      | {"shot_frames"},
    ),
  ],
)
def test_the_settings_that_ask_for_another_look_are_those_of_the_docs(
  tmp_path, settings, names
):
  (tmp_path / "a").write_text("a")
  line = inputs.Line(path="a", file=str(tmp_path / "a"))

  def id(settings):
    media = settings if isinstance(settings, config_lib.Media) else MEDIA
    ingest = settings if isinstance(settings, config_lib.Ingest) else config_lib.Ingest()
    return facts_lib._identity(line, media, ingest)

  found = set()
  for name, value in vars(settings).items():
    other = "another" if isinstance(value, str) else value + 1
    other = not value if isinstance(value, bool) else other
    if id(dataclasses.replace(settings, **{name: other})) != id(settings):
      found.add(name)
  assert found == names


def test_what_took_too_long_is_tried_again_with_more_time(tmp_path):
  (tmp_path / "a").write_text("a")
  with facts_lib.Facts(tmp_path / "work" / "facts.sqlite") as facts:
    facts.set_lines([inputs.Line(path="a", file=str(tmp_path / "a"))], MEDIA)
    ((id, _),) = facts.unseen(MEDIA)
    late = {"reason": "timeout", "message": "", "timeout_seconds": MEDIA.timeout_seconds}
    facts.put(id, late)
    facts.fail("key", "timeout", "late", seconds=MEDIA.timeout_seconds, line=1)
    more = dataclasses.replace(MEDIA, timeout_seconds=2 * MEDIA.timeout_seconds)
    assert _unseen(facts) == []
    assert _unseen(facts, more) == ["a"]
    assert facts.failure("key", MEDIA) == ("timeout", "late")
    assert facts.failure("key", more) is None
    assert facts.failure("other", MEDIA) is None
    facts.forget_failures()
    assert _unseen(facts) == ["a"]
    assert facts.failure("key", MEDIA) is None


def test_what_could_not_be_reached_is_tried_again(tmp_path):
  (tmp_path / "a").write_text("a")
  lines = [inputs.Line(path="a", file=str(tmp_path / "a"))]
  with facts_lib.Facts(tmp_path / "work" / "facts.sqlite") as facts:
    facts.set_lines(lines, MEDIA)
    ((id, _),) = facts.unseen(MEDIA)
    facts.put(id, {"reason": "unreachable", "message": ""})
    facts.fail("key", "unreachable", "gone", seconds=MEDIA.timeout_seconds, line=1)
    facts.fail("other", "damaged", "bad", seconds=MEDIA.timeout_seconds, line=1)
    assert facts.failure("key", MEDIA) == ("unreachable", "gone")
    facts.set_lines(lines, MEDIA)  # the next run
    assert _unseen(facts) == ["a"]
    assert facts.failure("key", MEDIA) is None
    assert facts.failure("other", MEDIA) == ("damaged", "bad")
    (tmp_path / "a").write_text("whole again")
    facts.set_lines(lines, MEDIA)
    assert facts.failure("other", MEDIA) is None


def test_what_changed_after_a_look_is_looked_at_again(tmp_path):
  (tmp_path / "a").write_text("a")
  lines = [inputs.Line(path="a", file=str(tmp_path / "a"))]
  with facts_lib.Facts(tmp_path / "work" / "facts.sqlite") as facts:
    facts.set_lines(lines, MEDIA)
    ((id, _),) = facts.unseen(MEDIA)
    facts.put(id, {"reason": "changed", "message": ""})
    assert _unseen(facts) == ["a"]
    facts.put(id, {"frames": 1})
    facts.fail("key", "changed", "", seconds=MEDIA.timeout_seconds, line=1)
    assert _unseen(facts) == []
    facts.set_lines(lines, MEDIA)
    assert _unseen(facts) == ["a"]
    assert facts.failure("key", MEDIA) is None


def test_facts_are_published_from_time_to_time(tmp_path, monkeypatch):
  path = tmp_path / "facts.sqlite"
  (tmp_path / "a").write_text("a")
  published = []

  class Disk(disk_lib.Disk):
    def wrote(self, path):
      with facts_lib.Facts(shutil.copy(path, tmp_path / "copy")) as copy:
        published.append(_unseen(copy))

  with facts_lib.Facts(path, Disk()) as facts:
    facts.set_lines([inputs.Line(path="a", file=str(tmp_path / "a"))], MEDIA)
    facts.commit()
    assert not published
    now = time.monotonic()
    monkeypatch.setattr(facts_lib.time, "monotonic", lambda: now + 601)
    facts.commit()
    ((id, _),) = facts.unseen(MEDIA)
    facts.put(id, {"reason": "damaged", "message": ""})
    assert published == [["a"]]
    monkeypatch.setattr(facts_lib.time, "monotonic", lambda: now + 1300)
    facts.commit()
    assert published == [["a"], []]
    # An output that does not answer for once costs nothing.
    monkeypatch.setattr(facts_lib.time, "monotonic", lambda: now + 1950)
    with monkeypatch.context() as patch:
      patch.setattr(shutil, "copy", lambda *args: 1 / 0)
      facts.commit()
    monkeypatch.setattr(facts_lib.time, "monotonic", lambda: now + 2011)
    facts.commit()
    assert published == [["a"], [], []]


def test_lines_without_a_file_have_no_facts(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  lines = [
    inputs.Line(path="gone", file=str(tmp_path / "gone")),
    inputs.Line(path="pipe", file=str(tmp_path / "pipe")),
    inputs.Line(path="bad", error=("bad_line", "bad")),
    inputs.Line(path="odd", file=str(tmp_path / "\udcff")),
  ]
  with facts_lib.Facts(tmp_path / "work" / "facts.sqlite") as facts:
    facts.set_lines(lines, MEDIA)
    assert _unseen(facts) == []
    assert [line for _, line, _ in facts.lines()] == lines


def test_a_full_disk_is_named_and_costs_only_what_was_not_kept(tmp_path):
  folder = tmp_path / "in"
  folder.mkdir()
  for name in ("a", "b"):
    (folder / name).write_text(name)
  path = tmp_path / "facts.sqlite"
  full = pytest.raises(ValueError, match=r"facts.sqlite: .*disk is full.*Make room")
  with full, facts_lib.Facts(path) as facts:
    facts.set_lines(_lines(folder), MEDIA)
    (first, _), (second, _) = facts.unseen(MEDIA)
    facts.put(first, {"frames": 1})
    facts.commit()
    # SQLite's own limit raises what a full disk does.
    (pages,) = facts._database.execute("PRAGMA page_count").fetchone()
    facts._database.execute(f"PRAGMA max_page_count = {pages}")
    facts.put(second, {"frames": 2, "message": "long " * 5000})
  with facts_lib.Facts(path) as facts:
    facts.set_lines(_lines(folder), MEDIA)
    assert _unseen(facts) == ["b"]


def test_a_damaged_file_is_set_aside_and_made_anew(tmp_path, caplog):
  for name in "abc":
    (tmp_path / name).write_text(name)
  lines = [inputs.Line(path=n, file=str(tmp_path / n)) for n in "abc"]
  path = tmp_path / "work" / "facts.sqlite"

  def fill():
    with facts_lib.Facts(path) as facts:
      facts.set_lines(lines, MEDIA)
      unseen = _unseen(facts)
      for id, _ in list(facts.unseen(MEDIA)):
        facts.put(id, {"frames": 1, "message": "long " * 5000})
    return unseen

  fill()
  assert fill() == []
  whole = path.read_bytes()
  path.write_bytes(b"no database " * 999)
  assert fill() == ["a", "b", "c"]
  assert "facts.sqlite.damaged: all files are examined anew" in caplog.text
  # One that only shows later, when it is read.
  path.write_bytes(whole[:8192] + bytes(len(whole) - 8192))
  with pytest.raises(ValueError, match=r"was damaged .*facts.sqlite.damaged. Run again"):
    fill()
  assert fill() == ["a", "b", "c"]
