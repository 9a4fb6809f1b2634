"""The table of training clips: which there are, and where their files lie now."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from video_dit.evaluate import training


def _row(path: str, split: str = "train", size=(9, 32, 32)) -> dict:
  row = {"path": path, "caption": f"of {path}", "split": split, "kind": "video"}
  row |= {"start_seconds": 0.0, "frames_per_second": 8.0}
  return row | dict(zip(("frames", "height", "width"), size, strict=True))


def _table(folder: pathlib.Path, rows: list[dict]) -> pathlib.Path:
  pq.write_table(pa.Table.from_pylist(rows), folder / "clips.parquet", row_group_size=3)
  return folder / "clips.parquet"


def _paths(table: pathlib.Path, media: pathlib.Path) -> list[str]:
  clips = training.Clips([table], "train", media)
  return [str(clip.path) for clip in clips.take(range(len(clips)))]


@pytest.fixture
def moved(tmp_path) -> pathlib.Path:
  """A folder of files in folders, which has moved."""
  media = tmp_path / "new"
  for name in ("a/0001.mp4", "b/0001.mp4", "b/0002.mp4"):
    (media / name).parent.mkdir(parents=True, exist_ok=True)
    (media / name).touch()
  return media


_NAMES = ["a/0001.mp4", "b/0001.mp4", "b/0001.mp4", "b/0002.mp4"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, moved):
  table = _table(tmp_path, [_row(f"/old/media/{name}") for name in _NAMES])
  assert _paths(table, moved) == [str(moved / name) for name in _NAMES]


def test_files_side_by_side_are_found_where_their_names_are_their_own(tmp_path):
  (tmp_path / "flat").mkdir()
  for name in ("0001.mp4", "0002.mp4"):
    (tmp_path / "flat" / name).touch()
  table = _table(tmp_path, [_row(f"gs://old/media/{name}") for name in _NAMES])
  flat = tmp_path / "flat"
  # Whose 0001.mp4 it is, nobody can say.
  assert _paths(table, flat) == [
    *(str(flat / name) for name in _NAMES[:3]),
    str(flat / "0002.mp4"),
  ]
  (tmp_path / "flat" / "only.mp4").touch()
  one = _table(tmp_path, [_row("/old/media/x/only.mp4")] * 2)
  assert _paths(one, flat) == [str(flat / "only.mp4")] * 2


def test_clips_are_read_as_they_are_asked_for(tmp_path):
  sizes = [(9, 32, 32), (1, 16, 32), (9, 32, 32), (5, 16, 32), (9, 8, 8), (9, 16, 32)]
  rows = [_row(f"/m/{i}.mp4", size=size) for i, size in enumerate(sizes)]
  rows.insert(2, _row("/m/other.mp4", "validation"))
  clips = training.Clips([_table(tmp_path, rows)], "train")
  assert len(clips) == 6
  taken = clips.take([5, 0, 0])
  assert [clip.path for clip in taken] == ["/m/5.mp4", "/m/0.mp4", "/m/0.mp4"]
  assert list(clips.counts().items()) == [
    ((9, 32, 32), 2),
    ((1, 16, 32), 1),
    ((5, 16, 32), 1),
    ((9, 8, 8), 1),
    ((9, 16, 32), 1),
  ]
  spread = [clip.path for clip in clips.spread(4, sizes=2)]
  assert spread == ["/m/1.mp4", "/m/0.mp4", "/m/3.mp4", "/m/2.mp4"]
  assert not training.Clips([tmp_path / "clips.parquet"], "test")
