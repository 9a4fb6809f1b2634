"""What a data set is to hold, set against what it holds."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from video_dit.preprocess import plan as plan_lib
from video_dit.preprocess import tables


def plan_of(tmp_path, shapes, **more):
  """A plan of clips of these frames, heights and widths."""
  path = tmp_path / "clips.parquet"
  with tables.TableWriter(path, tables.CLIPS) as file:
    for i, (frames, height, width) in enumerate(shapes):
      file.write(
        key=f"{i:032x}",
        caption=f"caption {i}",
        split="train" if i % 3 else "validation",
        **{"line": i + 1, "first_frame": 0, "start_seconds": 0.0, "tokens": 1},
        **{"frames": frames, "height": height, "width": width},
        frames_per_second=8.0,
        **more,
      )
  return plan_lib.read(path, "latents")


def test_what_is_there_is_set_against_the_plan(tmp_path):
  plan = plan_of(tmp_path, [(1, 16, 16)] * 4)
  parts = tmp_path / "set" / "parts"
  parts.mkdir(parents=True)

  def write(name, rows):
    columns = {"key": [f"{i:032x}" for i, _ in rows], "caption": [c for _, c in rows]}
    pa.parquet.write_table(pa.table(columns), parts / name)

  write("validation-00000.parquet", [(0, "caption 0")])
  write("train-00000.parquet", [(1, "caption 1"), (2, "another"), (9, "caption 9")])
  present, stale = plan_lib.compare(plan, tmp_path / "set")
  keys = {plan.key[i].decode() for i in np.flatnonzero(present)}
  assert keys == {f"{0:032x}", f"{1:032x}"}
  assert set(stale) == {f"{2:032x}", f"{9:032x}"}
  assert "another caption" in stale[f"{2:032x}"]
  assert "no longer wanted" in stale[f"{9:032x}"]


def test_a_clip_of_another_split_or_of_other_captions_or_weights_is_another():
  def mark(texts, weights, split="train"):
    return int(plan_lib._marks([(texts, weights)], [split])[0])

  marks = [mark(["a"], [1.0]), mark(["a"], [1.0], "validation"), mark(["b"], [1.0])]
  marks += [mark(["a", "b"], [0.5, 0.5]), mark(["a", "b"], [0.75, 0.25])]
  assert len(set(marks)) == len(marks)
  assert mark(["a"], [1.0]) == mark(["a"], [9.0])  # a single caption always comes
