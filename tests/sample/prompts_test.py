"""Prompts from flags and files."""

import json

import numpy as np
import pytest

from video_dit import config as config_lib
from video_dit.generator import prompts as prompts_lib
from video_dit.media import write
from video_dit.sample import prompts

SAMPLE = config_lib.Sample(
  height=32, width=48, frames=9, frames_per_second=8.0, seed=7, guidance=2.0
)
MEDIA = config_lib.Media()


def test_flags_come_first_and_seeds_count_up(tmp_path):
  path = tmp_path / "prompts.txt"
  path.write_text("a red circle\n\n  a blue square  \n")
  lines = prompts.lines(["", "<b>bold</b>"], [str(path)])
  requests = prompts.requests(lines, SAMPLE, MEDIA)
  texts = ["", "<b>bold</b>", "a red circle", "a blue square"]
  assert [r.prompt for r in requests] == texts
  assert [r.seed for r in requests] == [7, 8, 9, 10]
  assert {(r.height, r.width, r.frames) for r in requests} == {(32, 48, 9)}


def test_a_line_of_jsonl_overrides_the_config_and_keeps_its_truth(tmp_path):
  path = tmp_path / "prompts.jsonl"
  line = {"prompt": "x", "height": 64, "seed": 3, "guidance": 1, "colour": "red"}
  path.write_text(json.dumps(line) + "\n" + json.dumps({"prompt": "y"}) + "\n")
  lines = prompts.lines([], [str(path)])
  first, second = prompts.requests(lines, SAMPLE, MEDIA)
  assert (first.height, first.width, first.seed, first.guidance) == (64, 48, 3, 1)
  assert (second.height, second.seed, second.guidance) == (32, 8, None)
  assert prompts_lib.truth(lines[0]) == {"colour": "red"}


def test_no_prompt_and_no_file_are_refused(tmp_path):
  with pytest.raises(ValueError, match="No prompt was given"):
    prompts.lines([], [])
  with pytest.raises(ValueError, match="no such file"):
    prompts.lines([], [str(tmp_path / "none.txt")])


def test_given_frames_are_read_and_resized(tmp_path):
  path = tmp_path / "given.png"
  write.write_video(path, np.full((1, 64, 96, 3), 200, np.uint8), 8.0)
  (request,) = prompts.requests([{"prompt": "x", "given": str(path)}], SAMPLE, MEDIA)
  assert request.given_FHWC.shape == (1, 32, 48, 3)
  assert abs(int(request.given_FHWC.mean()) - 200) <= 1
  with pytest.raises(ValueError, match=r"'x'.*given='no.png': there is no such file"):
    prompts.requests([{"prompt": "x", "given": "no.png"}], SAMPLE, MEDIA)
  with pytest.raises(ValueError, match="5 frames are needed, but the file has 1"):
    line = {"prompt": "x", "given": str(path), "given_frames": 5}
    prompts.requests([line], SAMPLE, MEDIA)


def test_given_frames_are_those_at_the_requests_rate(tmp_path):
  path = tmp_path / "given.mp4"
  greys = np.repeat(np.arange(0, 240, 30, dtype=np.uint8), 32 * 48 * 3)
  write.write_video(path, greys.reshape(8, 32, 48, 3), 8.0)
  line = {"prompt": "x", "given": str(path), "given_frames": 3}
  for rate, expected in ((8.0, (0, 30, 60)), (4.0, (0, 60, 120))):
    lines = [line | {"frames_per_second": rate}]
    (request,) = prompts.requests(lines, SAMPLE, config_lib.Media(frames_per_second=24.0))
    np.testing.assert_allclose(request.given_FHWC.mean((1, 2, 3)), expected, atol=4)
  with pytest.raises(ValueError, match=r"frames_per_second=0.0 is not in \[0.01, 1000\]"):
    prompts.requests([line | {"frames_per_second": 0}], SAMPLE, MEDIA)


def test_a_prompt_of_a_flag_in_another_encoding_is_refused():
  with pytest.raises(ValueError, match=r"--prompt: 'caf.udce9' contains"):
    prompts.lines(["caf\udce9"], [])
