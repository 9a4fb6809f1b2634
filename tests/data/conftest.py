"""Fixtures of the tests of data."""

import pytest

from video_dit.data import split


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
  """A damaged record is read again at once."""
  monkeypatch.setattr(split, "_PAUSES", (0.0, 0.0))
