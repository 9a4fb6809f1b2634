"""A data set that is there: what it holds, and whether it may be added to."""

from collections.abc import Iterator
import dataclasses
import os
import pathlib

from video_dit.data import finish as finish_lib
from video_dit.data import parts as parts_lib
from video_dit.data import schema


def committed(
  folder: str | os.PathLike,
) -> Iterator[tuple[str, list[str], list[tuple[list[str], list[float]]]]]:
  """What a set holds, finished or not; reads no record.

  Args:
    folder: of the set; need not exist.

  Yields:
    Split, keys, and captions with their weights, for some records at a time.
  """
  for path in sorted((pathlib.Path(folder) / parts_lib.PARTS).glob("*-*.parquet")):
    rows = finish_lib.read_lines(path).to_pylist()
    captions = [
      (row["captions"] or [row["caption"]], row["caption_weights"] or [1.0])
      for row in rows
    ]
    yield path.name.split("-")[0], [row["key"] for row in rows], captions


def check(folder: str | os.PathLike, metadata: schema.Metadata) -> schema.Metadata:
  """Who makes what is added to a set: `metadata`, and its room for several captions.

  Raises:
    ValueError: the folder holds a set made by others or with other settings, or records
      of unknown origin, or parts of an earlier version, whose names would be misread.
  """
  folder = pathlib.Path(folder)
  if (folder / schema.PROVENANCE).exists():
    found = schema.Metadata.load(folder)
    if found.kind == metadata.kind and not metadata.several:  # there is room
      metadata = dataclasses.replace(metadata, several=found.several)
    _refuse_other(found, metadata)
  elif any((folder / parts_lib.PARTS).glob("*.parquet")):
    raise ValueError(
      f"{folder}: holds records, but no {schema.PROVENANCE} that says what made them."
      " Restore that file, or choose another output folder."
    )
  for path in (folder / parts_lib.PARTS).glob("*"):
    if path.suffix == ".array_record" or "-h" in path.name:
      raise ValueError(
        f"{path}: the set is of an earlier version, which named parts differently."
        " Add to it with that version, or choose another output folder. A finished set"
        " can be trained on as it is."
      )
  return metadata


def _refuse_other(found: schema.Metadata, wanted: schema.Metadata) -> None:
  for field in dataclasses.fields(wanted):
    old, new = getattr(found, field.name), getattr(wanted, field.name)
    if field.compare and not field.name.endswith("_path") and old != new:
      raise ValueError(
        f"{found.folder}: the set here has {field.name} {old!r}, this run has {new!r}; a"
        " data set cannot mix them. Choose another output folder, or delete this one."
      )
