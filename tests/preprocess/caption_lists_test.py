"""Several captions of one clip, from manifests and from files beside the media."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from video_dit.preprocess import caption_lists, inputs, sources


def _line(folder, name, text) -> inputs.Line:
  (folder / name).write_text(text, encoding="utf-8")
  (line,) = sources.lines(folder / name)
  return line


def test_manifests_hold_captions_with_weights(tmp_path):
  row = {"path": "a.mp4", "captions": ["one  two", "", "three"]}
  lines = [
    _line(tmp_path, "m.jsonl", json.dumps(row | {"caption_weights": [1, 5, 3]})),
    _line(
      tmp_path,
      "m.csv",
      'path,captions,weights\na.mp4,"[""one two"", ""three""]","[1, 3]"\n',
    ),
  ]
  table = {name: [value] for name, value in row.items()} | {"weights": [[1.0, 0.0, 3.0]]}
  pyarrow.parquet.write_table(pa.table(table), tmp_path / "m.parquet")
  lines += sources.lines(tmp_path / "m.parquet")
  for line in lines:
    assert line.captions == ("one two", "three")
    assert line.caption_weights == (0.25, 0.75)
    assert line.caption == "three"


def test_a_file_beside_the_media_holds_captions(tmp_path):
  (tmp_path / "a.mp4").touch()
  (tmp_path / "a.json").write_text(json.dumps({"captions": ["one", "two"]}))
  (tmp_path / "b.mp4").touch()
  (tmp_path / "b.mp4.json").write_text(json.dumps({"caption": "only"}))
  (tmp_path / "c.mp4").touch()
  (tmp_path / "c.json").write_text("[1, 2")
  (tmp_path / "d.json").write_text("{}")
  (tmp_path / "e.mp4").touch()
  (tmp_path / "e.json").write_text('["one", "two"]')
  (tmp_path / "f.mp4").touch()
  (tmp_path / "f.json").write_text('{"Text": "only"}')
  a, b, c, d, e, f = sources.lines(tmp_path)
  assert (e.captions, e.caption, f.caption) == (a.captions, "one", "only")
  assert (a.captions, a.caption_weights, a.caption) == (("one", "two"), (0.5, 0.5), "one")
  assert (b.captions, b.caption) == ((), "only")
  assert c.error is not None and c.error[0] == "bad_line" and "c.json" in c.error[1]
  assert d.path.endswith("d.json") and d.error is None


@pytest.mark.parametrize(
  ("row", "said"),
  [
    ({"captions": "one"}, "list in JSON"),
    ({"captions": [1, 2]}, "must be text"),
    ({"captions": ["a", "b"], "weights": [1]}, "1 numbers for 2 captions"),
    ({"captions": ["a"], "weights": [-1]}, "0 or above"),
    ({"captions": ["a"], "weights": [float("nan")]}, "must be a number"),
    ({"captions": ["a", "b"], "weights": [0, 0]}, "must be above 0"),
    ({"captions": ["a"] * 2000}, "at most 1024"),
  ],
)
def test_what_makes_no_sense_is_refused(row, said):
  with pytest.raises(ValueError, match=said):
    caption_lists.read(row)


def test_lines_survive_json():
  line = inputs.Line(path="a", captions=("x", "y"), caption_weights=(0.5, 0.5))
  assert inputs.from_json(json.loads(json.dumps(vars(line)))) == line
