"""A look at a file tells what lies in the file from what keeps its bytes away."""

import errno

import pytest

from video_dit import config as config_lib
from video_dit.preprocess import examine, ingest, inputs


def _look(path):
  line = inputs.Line(path="a", file=str(path))
  job = ingest.job_of(b"", line, config_lib.Media(), config_lib.Ingest())
  known, pixels = examine.work(job)
  assert pixels is None
  return known


def test_a_file_that_is_gone_is_unreachable(tmp_path):
  known = _look(tmp_path / "gone.mp4")
  assert known == {"reason": "unreachable", "message": "No such file or directory"}


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (OSError(errno.EIO, "Input/output error"), "unreachable"),
    (OSError(errno.EINVAL, "Invalid argument"), "unreadable"),  # a seek to nowhere
    (OSError("image file is truncated"), "unreadable"),
  ],
)
def test_a_library_s_complaint_about_the_content_is_not(
  tmp_path, monkeypatch, error, reason
):
  def fail(job):
    raise error

  monkeypatch.setattr(examine, "_work", fail)
  (tmp_path / "a.png").write_bytes(b"a")
  known = _look(tmp_path / "a.png")
  assert known == {"reason": reason, "message": error.strerror or str(error)}
