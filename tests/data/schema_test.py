"""What a set says of itself and of its records: encoders' places, captions, versions."""

import json

import numpy as np
import pytest

from tests.data import clips
from video_dit.data import schema


def test_encoders_near_a_set_move_with_it(tmp_path):
  here = tmp_path / "here"
  clips.metadata(
    autoencoder_path=str(here / "ae"), text_path=str(here / "data" / "text")
  ).save(here / "data" / "latents")
  here.rename(tmp_path / "there")
  there = tmp_path / "there"
  moved = schema.Metadata.load(there / "data" / "latents")
  assert moved.autoencoder_path == str(there / "ae")
  assert moved.text_path == str(there / "data" / "text")


def test_encoders_far_from_a_set_stay_where_they_are(tmp_path):
  clips.metadata(autoencoder_path="/models/ae").save(tmp_path / "a" / "latents")
  deeper = tmp_path / "b" / "c" / "d"
  deeper.mkdir(parents=True)
  (tmp_path / "a").rename(deeper / "a")
  moved = schema.Metadata.load(deeper / "a" / "latents")
  assert moved.autoencoder_path == "/models/ae" and moved.text_path == ""


def test_a_set_of_a_later_version_is_refused(tmp_path):
  clips.metadata().save(tmp_path)
  path = tmp_path / schema.PROVENANCE
  path.write_text(json.dumps(json.loads(path.read_text()) | {"colour_space": "x"}))
  with pytest.raises(ValueError, match=r"unknown fields \['colour_space'\].*another"):
    schema.Metadata.load(tmp_path)


def _record_of_captions(weights, *lengths):
  """A record with captions of these lengths besides its own."""
  record, _ = next(clips.records(1))
  more = [np.full((n, clips.TEXT_WIDTH), n, np.float16) for n in lengths]
  return record.with_captions([f"of {n}" for n in lengths], more, weights), more


def test_room_is_counted_for_the_longest_caption():
  record, _ = _record_of_captions([1.0] * 4, 2, 9, 4)
  assert record.line()["text_tokens"] == 9 > len(record.text)


def test_captions_come_whole_and_by_their_weights():
  record, more = _record_of_captions([2.0, 1.0, 1.0], 2, 9)
  drawn = [record.draw_text(x) for x in np.linspace(0, 0.999, 200)]
  for expected, times in ((record.text, 100), (more[0], 50), (more[1], 50)):
    assert sum(np.array_equal(text, expected) for text in drawn) == times
