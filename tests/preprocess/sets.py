"""What tests of whole runs read of a data set, and change of a config."""

import dataclasses
import pathlib

import pyarrow.parquet

from video_dit.data import reader


def table(folder: pathlib.Path, name: str) -> list[dict]:
  """Rows of a table."""
  return pyarrow.parquet.read_table(folder / name).to_pylist()


def records(folder: pathlib.Path, split: str = "train") -> list:
  """Records of a split."""
  data = reader.Dataset(folder, split)
  return [data[i] for i in range(len(data))]


def files(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """All files but those of work in progress."""
  found = (path for path in folder.rglob("*") if path.is_file())
  return {p: p.read_bytes() for p in found if "work" not in p.relative_to(folder).parts}


def change(config, section: str, **values):
  """A config with other values in one of its sections."""
  part = dataclasses.replace(getattr(config, section), **values)
  return dataclasses.replace(config, **{section: part})
