"""Small media files of any codec, made on the spot."""

from fractions import Fraction
import os

import av
import numpy as np
import pytest


def _encode(
  path,
  frames_FHWC,
  *,
  codec="libx264",
  pix_fmt="yuv420p",
  rate=25,
  milliseconds=None,
  aspect=None,
  options=None,
  tags=None,
  container_options=None,
):
  """Encodes uint8 frames, RGB or of `pix_fmt` itself, with given time stamps."""
  options = {"threads": "1", **(options or {})}
  with av.open(os.fspath(path), "w", options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=Fraction(rate), options=options)
    stream.height, stream.width = frames_FHWC[0].shape[:2]
    stream.pix_fmt = pix_fmt
    if milliseconds is not None:
      stream.codec_context.time_base = Fraction(1, 1000)
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = aspect
    for key, value in (tags or {}).items():
      setattr(stream.codec_context, key, value)
    for index, frame in enumerate(frames_FHWC):
      if not isinstance(frame, av.VideoFrame):
        form = {4: "rgba", 3: "rgb24"}[frame.shape[2]]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=form)
        if pix_fmt != form:
          frame = frame.reformat(format=pix_fmt)
      if milliseconds is None:
        frame.pts, frame.time_base = index, 1 / Fraction(rate)
      else:
        frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return path


@pytest.fixture(scope="session")
def encode():
  """Function that encodes frames to a file by PyAV."""
  return _encode


@pytest.fixture(scope="session")
def counted():
  """Function that makes frames whose grey level tells their index."""

  def make(count, height=32, width=48, step=8):
    levels = (np.arange(count) * step + 4).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()

  return make


@pytest.fixture(scope="session")
def indices():
  """Function that reads the indices back from frames of `counted`."""

  def read(frames, step=8):
    return [round((float(frame.mean()) - 4) / step) for frame in frames]

  return read
