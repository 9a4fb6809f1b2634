"""Small media files of any codec, made on the spot."""

from fractions import Fraction
import os
import struct

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
    first = frames_FHWC[0]
    stream.height, stream.width = (
      (first.height, first.width) if isinstance(first, av.VideoFrame) else first.shape[:2]
    )
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


@pytest.fixture(scope="session")
def swapped_profile():
  """An ICC profile of version 2 that calls red what is green, and green what is red."""
  red, green = (0.2920, 0.6922, 0.0419), (0.5151, 0.2412, -0.0011)
  blue = 0.1571, 0.0666, 0.7841
  white = (0.9642, 1.0, 0.8249)

  def numbers(values):
    return struct.pack(">3i", *(round(value * 65536) for value in values))

  def place(values):
    return b"XYZ " + bytes(4) + numbers(values)

  name = b"red and green swapped\0"
  curve = b"curv" + struct.pack(">IIH", 0, 1, round(2.2 * 256)) + bytes(2)
  tags = {
    b"desc": b"desc" + struct.pack(">II", 0, len(name)) + name + bytes(80),
    b"cprt": b"text" + bytes(8),
    b"wtpt": place(white),
    **{b"rXYZ": place(red), b"gXYZ": place(green), b"bXYZ": place(blue)},
    **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
  }
  table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
  for key, data in tags.items():
    table += key + struct.pack(">II", start + len(body), len(data))
    body += data + bytes(-len(data) % 4)
  size = start + len(body)
  head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
  head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + numbers(white)
  return head.ljust(128, b"\0") + table + body
