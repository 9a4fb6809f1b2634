"""Every way that clips can come in, and every way that it can be wrong."""

import csv
import json
import os
import unicodedata

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from video_dit.preprocess import sources


def _touch(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"media")


def _by_name(lines):
  return {os.path.basename(line.path): line for line in lines}


def test_folder_takes_captions_beside_the_media(tmp_path):
  _touch(tmp_path, "b/two.mp4", "a.mp4", "c.gif", ".hidden.mp4", ".git/x.mp4")
  (tmp_path / "a.txt").write_text("  a red\n ball\t\n", encoding="utf-8")
  (tmp_path / "b" / "two.mp4.txt").write_text("zwei Bälle", encoding="utf-8")
  lines = list(sources.lines(tmp_path))
  assert [os.path.relpath(x.path, tmp_path) for x in lines] == [
    "a.mp4",
    "c.gif",
    os.path.join("b", "two.mp4"),
  ]
  assert [x.caption for x in lines] == ["a red ball", "", "zwei Bälle"]
  assert not any(x.error for x in lines)


def test_odd_names_are_lines_like_others(tmp_path):
  names = ["-i.mp4", 'it\'s "it".mp4', "猫 🐈 clip.mp4", "a b.mp4"]
  _touch(tmp_path, *names)
  (tmp_path / "猫 🐈 clip.txt").write_text("a cat", encoding="utf-8")
  found = _by_name(sources.lines(tmp_path))
  assert set(found) == set(names)
  assert found["猫 🐈 clip.mp4"].caption == "a cat"
  assert all(os.path.isfile(line.file) for line in found.values())


def test_name_that_is_not_utf8_can_be_stored_and_opened(tmp_path):
  file = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
  try:
    with open(file, "wb"):
      pass
  except OSError:
    pytest.skip("this file system takes only UTF-8")
  (line,) = sources.lines(tmp_path)
  line.path.encode("utf-8")
  assert os.path.isfile(line.file)


def test_symbolic_links_do_not_loop(tmp_path):
  _touch(tmp_path, "in/a.mp4")
  (tmp_path / "in" / "up").symlink_to(tmp_path)
  (tmp_path / "again").symlink_to(tmp_path / "in")
  assert [os.path.basename(x.path) for x in sources.lines(tmp_path)] == ["a.mp4"]


def test_captions_in_other_encodings_are_read_and_marked(tmp_path):
  _touch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4")
  (tmp_path / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
  (tmp_path / "b.txt").write_bytes("café".encode("utf-16"))
  (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfplain\x00\x07 text")
  (tmp_path / "d.txt").write_bytes(b"")
  found = _by_name(sources.lines(tmp_path))
  captions = [found[f"{n}.mp4"].caption for n in "abcd"]
  assert captions == ["café", "café", "plain text", ""]
  assert [found[f"{n}.mp4"].recoded for n in "abcd"] == [True, True, False, False]


def test_caption_without_media_and_unused_manifest_are_named(tmp_path):
  _touch(tmp_path, "a.mp4", "b.txt", "manifest.jsonl")
  found = _by_name(sources.lines(tmp_path))
  assert found["b.txt"].error[0] == "no_media"
  assert found["manifest.jsonl"].error[0] == "not_media"
  assert found["a.mp4"].error is None


ROWS = [
  {
    "path": "x/a.mp4",
    "caption": "a",
    "split": "val",
    "start_seconds": 1,
    "end_seconds": 2,
  },
  {"path": "b.mp4", "caption": 'b, "c"\nd'},
]


def _write(path, rows):
  if path.suffix == ".jsonl":
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
  elif path.suffix == ".parquet":
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
  else:
    with path.open("w", newline="", encoding="utf-8") as file:
      delimiter = "\t" if path.suffix == ".tsv" else ","
      writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
      writer.writeheader()
      writer.writerows(rows)


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv", "m.parquet"])
def test_manifests_of_all_formats_say_the_same(tmp_path, name):
  _write(tmp_path / name, ROWS)
  one, two = sources.lines(tmp_path / name)
  assert one.path == str(tmp_path / "x" / "a.mp4") == one.file
  assert (one.caption, one.split) == ("a", "validation")
  assert (one.start_seconds, one.end_seconds) == (1.0, 2.0)
  assert (two.caption, two.split, two.end_seconds) == ('b, "c" d', "", None)
  assert one.error is two.error is None


@pytest.mark.parametrize("name", ["file", "video", "filename"])
@pytest.mark.parametrize("caption", ["text", "prompt"])
def test_common_column_names(tmp_path, name, caption):
  _write(tmp_path / "m.jsonl", [{name: "a.mp4", caption: "x"}])
  (line,) = sources.lines(tmp_path / "m.jsonl")
  assert (os.path.basename(line.file), line.caption) == ("a.mp4", "x")


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("m.csv", "Path, Caption ,id\na.mp4,x,1\n"),
    ("m.tsv", "path\t caption\tID\na.mp4\tx\t1\n"),
    ("m.jsonl", '{"Path": "a.mp4", "CAPTION": "x", "ID": 1, "id": 2}'),
    ("m.jsonl", '{"path": "", "file": "a.mp4", "caption": " ", "text": "x"}'),
    ("m.csv", "path,file,caption,text\n,a.mp4,,x\n"),
  ],
)
def test_names_of_columns_are_known_in_any_case_and_blanks_hide_nothing(
  tmp_path, name, text
):
  (tmp_path / name).write_text(text)
  (line,) = sources.lines(tmp_path / name)
  assert (os.path.basename(line.file), line.caption, line.error) == ("a.mp4", "x", None)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_columns_twice_are_refused_and_those_not_read_are_named(tmp_path, name, caplog):
  def write(*names):
    table = pa.table([["x.mp4"]] * len(names), names=list(names))
    if name == "m.csv":
      pa.csv.write_csv(table, tmp_path / name)
    else:
      pa.parquet.write_table(table, tmp_path / name)

  write("path", "caption", "Caption")
  with pytest.raises(ValueError, match="several columns named 'caption'"):
    list(sources.lines(tmp_path / name))
  write("Path", "captoin", "id", "text")
  (line,) = sources.lines(tmp_path / name)
  assert (os.path.basename(line.file), line.caption) == ("x.mp4", "x.mp4")
  assert "ignored columns: 'captoin', 'id'" in caplog.text


def test_names_that_are_not_read_of_a_jsonl_are_reported_once(tmp_path, caplog):
  path = tmp_path / "m.jsonl"
  rows = [{"Path": "x.mp4", "captoin": "a", f"id{i % 2}": i} for i in range(5)]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert len(list(sources.lines(path))) == 5
  assert caplog.text.count("ignored columns") == 1
  assert "ignored columns: 'captoin', 'id0', 'id1'\n" in caplog.text
  caplog.clear()
  rows = [{"path": "x.mp4", f"{i} {'long' * 99}": i} for i in range(99)]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert len(list(sources.lines(path))) == 99
  assert " and more\n" in caplog.text and len(caplog.text) < 1200


@pytest.mark.parametrize(
  ("row", "reason"),
  [
    ({"path": "../a.mp4"}, "outside"),
    ({"path": "/etc/passwd"}, "outside"),
    ({"path": "x/../../a.mp4"}, "outside"),
    ({"caption": "no file"}, "bad_line"),
    ({"path": 3}, "bad_line"),
    ({"path": "a\0b"}, "bad_line"),
    ({"path": "a.mp4", "caption": ["x"]}, "bad_line"),
    ({"path": "a.mp4", "split": "other"}, "bad_line"),
    ({"path": "a.mp4", "split": 0}, "bad_line"),
    ({"path": "a.mp4", "start_seconds": "soon"}, "bad_line"),
    ({"path": "a.mp4", "start_seconds": 2, "end_seconds": 1}, "bad_line"),
    ({"path": "a.mp4", "start_seconds": -1}, "bad_line"),
    ({"path": "a.mp4", "caption": "\ud800"}, "bad_line"),
  ],
)
def test_bad_lines_are_set_aside_and_the_next_is_read(tmp_path, row, reason):
  path = tmp_path / "m.jsonl"
  path.write_text(json.dumps(row) + "\n" + '{"path": "good.mp4"}\n')
  bad, good = sources.lines(path)
  assert bad.error[0] == reason
  bad.path.encode("utf-8")
  bad.error[1].encode("utf-8")
  assert good.error is None


def _spelt(name):
  """A name with accents as single characters, and with accents of their own."""
  return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]


@pytest.mark.parametrize("kind", ["{}.txt", "{}.mp4.txt", "{}.json"])
@pytest.mark.parametrize("turned", [False, True])
def test_captions_are_found_where_accents_are_spelt_differently(tmp_path, kind, turned):
  one, two = _spelt("café ü")[:: -1 if turned else 1]
  _touch(tmp_path, f"{two}.mp4", "b.mp4")
  text = '{"captions": ["a café"]}' if "json" in kind else "a café"
  (tmp_path / kind.format(one)).write_text(text, encoding="utf-8")
  if len(os.listdir(tmp_path)) != 3 or os.path.exists(tmp_path / f"{one}.mp4"):
    pytest.skip("this file system spells names itself")
  found = _by_name(sources.lines(tmp_path))
  assert set(found) == {f"{two}.mp4", "b.mp4"}
  assert found[f"{two}.mp4"].caption == "a café"


def test_accents_spelt_differently_pair_nothing_that_is_ambiguous(tmp_path):
  one, two = _spelt("é")
  _touch(tmp_path, f"{one}.mp4", f"{two}.mp4")
  (tmp_path / f"{one}.txt").write_text("of its own")
  found = _by_name(sources.lines(tmp_path))
  if len(found) != 2:
    pytest.skip("this file system spells names itself")
  assert (found[f"{one}.mp4"].caption, found[f"{two}.mp4"].caption) == ("of its own", "")
  three = _spelt("ệ")
  odd = "e\u0302\u0323"  # The same letter, its accents in the other order.
  _touch(tmp_path, f"{three[0]}.mp4")
  for name in (three[1], odd):
    (tmp_path / f"{name}.txt").write_text("one of two")
  assert _by_name(sources.lines(tmp_path))[f"{three[0]}.mp4"].caption == ""


def test_a_manifest_may_spell_accents_differently_than_the_disk(tmp_path):
  one, two = _spelt("é")
  _touch(tmp_path, f"{two}/{two}.mp4", f"{one}.mp4", f"{two}.mp4")
  rows = [{"path": f"{one}/{one}.mp4"}, {"path": f"{one}.mp4"}, {"path": "ü.mp4"}]
  _write(tmp_path / "m.jsonl", rows)
  found = [line.file for line in sources.lines(tmp_path / "m.jsonl")]
  if os.path.exists(tmp_path / one / f"{one}.mp4"):
    pytest.skip("this file system spells names itself")
  assert found == [
    str(tmp_path / name) for name in (f"{two}/{two}.mp4", f"{one}.mp4", "ü.mp4")
  ]


@pytest.mark.parametrize(
  ("name", "text", "line"),
  [
    ("m.csv", 'path,caption\na.mp4,"two\nlines"\n\n,x\n', ":5"),
    ("m.csv", 'path,caption\na.mp4,"two\nlines"\n,"x\ny"\n', ":4"),
    ("m.csv", 'path,caption\na.mp4,"two\nlines"\nb,c,d\n', ":4"),
    ("m.tsv", 'path\tcaption\na.mp4\t"two\nlines"\n\n\tx\n', ":5"),
    ("m.tsv", 'path\tcaption\na.mp4\t"open\nb.mp4\tx\ty\n', ":3"),
    ("m.tsv", 'path\tcaption\na.mp4\tx\n\t"open', ":3"),
    ("m.jsonl", '{"path": "a.mp4"}\n\n\n[1]\n', ":4"),
    ("m.jsonl", '{"path": "a.mp4"}\n\n{"path": 3}\n', ":3"),
  ],
)
def test_bad_lines_are_named_by_their_number_in_the_file(tmp_path, name, text, line):
  (tmp_path / name).write_text(text)
  *_, bad = sources.lines(tmp_path / name)
  assert bad.path == f"{name}{line}"
  assert bad.error[0] == "bad_line" and bad.error[1].startswith(f"{name}{line}")


def test_bad_rows_of_tables_without_lines_are_named_as_rows(tmp_path):
  _write(tmp_path / "m.parquet", [{"path": "a.mp4"}, {"path": ""}])
  _, bad = sources.lines(tmp_path / "m.parquet")
  assert bad.path == "m.parquet, row 2"


def test_lines_that_are_no_json_are_named_by_number(tmp_path):
  path = tmp_path / "m.jsonl"
  path.write_bytes(b'{"path": "a.mp4", "caption": "caf\xe9"}\n{"path": \n[1]\n')
  good, half, array = sources.lines(path)
  assert (good.caption, good.recoded) == ("café", True)
  assert half.error[0] == array.error[0] == "bad_line"
  assert "m.jsonl:2" in half.error[1]


def test_wrong_inputs_are_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    sources.lines(tmp_path / "nowhere")
  (tmp_path / "a.mp4").write_bytes(b"")
  with pytest.raises(ValueError, match=r"must be a manifest .*\.jsonl"):
    sources.lines(tmp_path / "a.mp4")
  (tmp_path / "m.csv").write_text("name,words\na.mp4,x\n")
  with pytest.raises(ValueError, match=r"'name', 'words'.*path, file"):
    list(sources.lines(tmp_path / "m.csv"))


def test_a_folder_without_access_is_named_as_it_was_given(tmp_path, monkeypatch):
  monkeypatch.setattr(sources.os, "access", lambda *_: False)  # root has it everywhere
  with pytest.raises(PermissionError, match=f"Permission denied: '--input={tmp_path}'"):
    sources.lines(str(tmp_path), str(tmp_path / "out"))


def test_an_output_inside_the_input_is_passed_over(tmp_path):
  _touch(tmp_path, "a.mp4", "data/work/thumbnails/t.jpg", "data.mp4", "z/b.mp4")
  for prefix in ("", "file://"):
    root = f"{prefix}{tmp_path}"
    lines = sources.lines(root, f"{root}/data")
    assert [os.path.basename(x.path) for x in lines] == ["a.mp4", "data.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="is the --input: its files"):
      list(sources.lines(root, f"{root}/"))


def test_quotes_in_tables_with_tabs_swallow_no_line(tmp_path):
  """What pandas quotes is read, and so are files whose quotes are only quotes."""
  rows = [
    'a.mp4\t"an inch mark at the start',
    "b.mp4\tplain",
    'c.mp4\tends with a quote"',
    'd.mp4\t"Hello" she said',
    'e.mp4\t"a ""big"" one"',
    'f.mp4\t"two\nlines"',
    "g.mp4\tx\ty",
    "h.mp4",
    'i.mp4\t"never closed',
  ]
  (tmp_path / "m.tsv").write_text("\n".join(["path\tcaption", *rows, ""]))
  found = list(sources.lines(tmp_path / "m.tsv"))
  assert [line.caption for line in found] == [
    *('"an inch mark at the start', "plain", 'ends with a quote"'),
    *('"Hello" she said', 'a "big" one', "two lines", "", "", '"never closed'),
  ]
  assert [line.error is None for line in found] == [*[True] * 6, False, True, True]
  assert "more fields" in found[6].error[1]


@pytest.mark.parametrize(
  ("name", "content", "said"),
  [
    ("m.parquet", b"PAR1 and no more", "is not Parquet, or damaged"),
    ("m.csv", "path\na.mp4\n".encode("utf-16"), "is UTF-16. Save it as UTF-8"),
    ("m.tsv", b"", "none of them names the files"),
  ],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, name, content, said):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=rf"{tmp_path / name}: .*{said}"):
    list(sources.lines(tmp_path / name))


def test_a_quote_that_is_not_closed_costs_no_more_than_its_line(tmp_path):
  paths = [f"{number}.mp4" for number in range(100_000)]
  text = "\n".join(["path\tcaption", 'a.mp4\t"open', *paths, ""])
  (tmp_path / "m.tsv").write_text(text)
  found = list(sources.lines(tmp_path / "m.tsv"))
  assert [line.caption for line in found] == ['"open', *[""] * len(paths)]


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "-1"])
def test_numbers_beyond_all_are_bad_lines(tmp_path, number):
  _touch(tmp_path, "a.mp4")
  (tmp_path / "m.jsonl").write_text(f'{{"path": "a.mp4", "start_seconds": {number}}}')
  (line,) = sources.lines(tmp_path / "m.jsonl")
  assert line.error[0] == "bad_line" and "finite" in line.error[1]
  (tmp_path / "m.jsonl").unlink()
  (tmp_path / "a.json").write_text(
    f'{{"captions": ["x"], "caption_weights": [{number}]}}'
  )
  (line,) = sources.lines(tmp_path)
  assert line.error[0] == "bad_line" and "caption_weights" in line.error[1]


def test_a_caption_that_is_no_ordinary_file_is_not_read(tmp_path):
  _touch(tmp_path, "a.mp4")
  os.mkfifo(tmp_path / "a.txt")
  (line,) = sources.lines(tmp_path)
  assert line.error == ("bad_line", "caption a.txt: is not a regular file")


def test_suffixes_of_captions_have_any_case(tmp_path):
  _touch(tmp_path, "Mixed.png")
  (tmp_path / "Mixed.Txt").write_text("found")
  (line,) = sources.lines(tmp_path)
  assert line.caption == "found"


@pytest.mark.parametrize(
  "json_text",
  ['{"fps": 24}', '{"caption": null, "captions": []}', "[1]", '{"text": ""}'],
)
def test_a_json_file_without_captions_leaves_them_to_the_text_beside(tmp_path, json_text):
  _touch(tmp_path, "a.mp4")
  (tmp_path / "a.json").write_text(json_text)
  (line,) = sources.lines(tmp_path)
  assert (line.caption, line.error) == ("", None)
  (tmp_path / "a.txt").write_text("the text")
  (line,) = sources.lines(tmp_path)
  assert (line.caption, line.error) == ("the text", None)


def test_what_joins_letters_stays_in_a_caption(tmp_path):
  joined = "👨‍👩‍👧 क्‍ष co\u00adoperate"
  _touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
  (tmp_path / "a.txt").write_text(f"{joined}\x07\u2028end", encoding="utf-8")
  (tmp_path / "b.txt").write_bytes("it’s a “big” café".encode("cp1252"))
  (tmp_path / "c.txt").write_bytes("a cat".encode("utf-16-le"))
  found = _by_name(sources.lines(tmp_path))
  assert found["a.mp4"].caption == f"{joined} end" and not found["a.mp4"].recoded
  assert found["b.mp4"].caption == "it’s a “big” café" and found["b.mp4"].recoded
  assert found["c.mp4"].caption == "a cat" and found["c.mp4"].recoded
