"""The rows of one line of the input: its clips and rejects, in the order of time."""

import numpy as np

from tests.preprocess import cuts_test
from video_dit import config as config_lib
from video_dit.preprocess import decide, inputs, measure, survey


def test_rows_of_a_line_are_in_the_order_of_time():
  config = config_lib.Config(name="t", objective="reconstruction", media=cuts_test.MEDIA)
  samples = survey.pack(np.zeros(0, measure.DTYPE))
  # Shots of 17, 3 and 17 frames, of which the second is too short.
  known = cuts_test.FACTS | {"frames": 37, "cuts": [17, 20], "samples": samples}
  line = inputs.Line(path="a.mp4", file="a.mp4", start_seconds=2.0)
  found = decide.rows(1, line, known, config, cuts_test.GRID)
  assert [row["first_frame"] for row in found] == [0, 17, 20]
  assert [row.get("reason") for row in found] == [None, "too_short", None]
  assert [row["start_seconds"] for row in found] == [2 + n / 8 for n in (0, 17, 20)]
