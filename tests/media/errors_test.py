"""The error of reading media."""

import pickle

import pytest

from video_dit.media import errors


def test_a_media_error_crosses_processes():
  error = pickle.loads(pickle.dumps(errors.MediaError("a.mp4", "empty", "no bytes.")))
  assert (error.path, error.reason, str(error)) == ("a.mp4", "empty", "a.mp4: no bytes.")
  assert isinstance(error, ValueError)


def test_reasons_are_a_closed_list_and_documented():
  assert all(f"`{reason}`" in errors.__doc__ for reason in errors.REASONS)
  with pytest.raises(AssertionError):
    errors.MediaError("a.mp4", "bad", "no such reason.")
