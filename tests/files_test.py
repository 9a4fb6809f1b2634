"""A file is there whole or not at all, whatever ends its writing."""

import errno

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


def test_an_error_without_a_file_gets_its_name(tmp_path):
  path = tmp_path / "a.json"
  with pytest.raises(OSError, match=r"full: .*/a\.json'"), files.replacing(path):
    raise OSError(errno.ENOSPC, "full")
  with pytest.raises(OSError, match="other"), files.replacing(path):
    raise OSError(errno.ENOENT, "gone", "other")


def test_a_folder_is_tried_before_the_work_and_nothing_is_left(tmp_path):
  files.check_writable(tmp_path / "new" / "folder")
  assert not list(tmp_path.iterdir())
  with pytest.raises(OSError, match="'/sys/kernel'"):
    files.check_writable("/sys/kernel/new")


@pytest.mark.parametrize(
  ("content", "told"),
  [
    ('{"a": [1,', "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("[1]", "holds a list; an object"),
  ],
)
def test_damaged_json_is_named_with_its_remedy(content, told, tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"a": "é"}', encoding="utf-8")
  assert files.read_json(path, "Copy it again.") == {"a": "é"}
  path.write_text(content)
  with pytest.raises(ValueError, match=rf"{path}: {told}.*Copy it again\.$"):
    files.read_json(path, "Copy it again.")
