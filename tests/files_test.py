"""A file is there whole or not at all, whatever ends its writing."""

import pytest

from video_dit import files


def test_a_file_is_replaced_whole(tmp_path):
  path = tmp_path / "a.json"
  files.write(path, "old")
  with files.replacing(path) as unfinished:
    unfinished.write_text("n")
    assert path.read_text() == "old"
    unfinished.write_text("néw", encoding="utf-8")
  assert path.read_bytes() == "néw".encode()
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", [True, False])
def test_what_cannot_be_written_changes_nothing(there, tmp_path):
  path = tmp_path / "a.json"
  if there:
    files.write(path, b"old")
  with pytest.raises(OSError, match="full"), files.replacing(path) as unfinished:
    unfinished.write_text("ne")
    raise OSError("full")
  assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * there
