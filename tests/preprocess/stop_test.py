"""Ctrl-C while records are made: what is said, and that nothing is left running."""

import threading
import time

import pytest

from tests.preprocess.files import moving
from video_dit.data import writer
from video_dit.media import write
from video_dit.preprocess import makers, run


def test_ctrl_c_says_that_it_waits_for_what_is_being_encoded(
  pixels, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / "in"
  folder.mkdir()
  for name, frames in (("a.mp4", 9), ("b.png", 1)):  # a batch each, in this order
    write.write_video(folder / name, moving(frames, 32, 32, 0), 8.0)
  encode, begun, ended = makers.Pixels.encode, threading.Event(), threading.Event()

  def slowly(self, batch, clips_BFHWC):
    if batch.buffer[0] == 1:
      begun.set()
      time.sleep(1)
      ended.set()
    return encode(self, batch, clips_BFHWC)

  def stop(*args):
    begun.wait()
    raise KeyboardInterrupt

  monkeypatch.setattr(makers.Pixels, "encode", slowly)
  monkeypatch.setattr(writer.ShardWriter, "write", stop)
  with pytest.raises(KeyboardInterrupt):
    run.preprocess(pixels, folder, tmp_path / "out")
  assert ended.is_set()
  assert "stopping when what" in capsys.readouterr().err
  assert not [t for t in threading.enumerate() if t.name in ("decode", "device0")]
