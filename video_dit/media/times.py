"""When frames are shown: time stamps, repaired where a clock jumps or is missing."""

from collections import deque
import math

import av

_BACK_SECONDS = 1.0
_AHEAD_SECONDS = 10.0  # Also that of FFmpeg's own tools.


class Times:
  """Times of frames in seconds, ascending, from 0 at the start of the stream.

  A clock that was set back, as where files were joined, is repaired on the packets, whose
  decoding times ascend in every intact file: the packet after the jump counts as one
  frame after the packet before it. In broadcast containers the same is done for a jump
  ahead, and for any step back.

  Attributes:
    leaps: jumps of the clock, so far.
    apart: repaired seconds between the last two packets.
  """

  def __init__(
    self,
    *,
    tick: float,
    zero: float | None,
    step: float,
    is_avi: bool = False,
    is_broadcast: bool = False,
  ):
    """Begins a stream.

    Args:
      tick: seconds of one unit of the time stamps.
      zero: time stamp, in seconds, that counts as the start; None is the first frame's.
      step: seconds of a frame, on average.
      is_avi: there are no display times; the n-th frame gets the n-th decoding time.
      is_broadcast: the clock may jump ahead.
    """
    self.leaps, self.apart = 0, 0.0
    self._tick, self._zero, self._step, self._is_avi = tick, zero, step, is_avi
    self._back = min(_BACK_SECONDS, 0.5 * step) if is_broadcast else _BACK_SECONDS
    self._ahead = max(_AHEAD_SECONDS, 10 * step) if is_broadcast else math.inf
    self._shift, self._last = 0, -math.inf
    self._before: int | None = None
    self._top: int | None = None  # latest display time so far
    self._decoding: deque[int | None] = deque()

  def add(self, packet: av.Packet) -> bool:
    """Repairs the times of a video packet in place; returns whether the clock jumped.

    Frames outside an edit list are decoded, for those that refer to them, but not shown;
    their times lie before the part that follows, which is no jump.
    """
    if not packet.size or packet.is_discard:
      return False
    leapt = packet.dts is not None and self._leaps(packet.dts)
    if self._shift:
      packet.pts = None if packet.pts is None else packet.pts + self._shift
      packet.dts = None if packet.dts is None else packet.dts + self._shift
    if packet.dts is not None:
      self._before = packet.dts
    if packet.pts is not None:
      self._top = packet.pts if leapt or self._top is None else max(self._top, packet.pts)
    if self._is_avi:
      self._decoding.append(packet.dts)
    return leapt

  def of_packet(self, packet: av.Packet) -> float | None:
    """Seconds at which a packet's frame is shown, if known."""
    stamp = packet.dts if packet.pts is None else packet.pts
    return None if stamp is None else stamp * self._tick - (self._zero or 0.0)

  def of(self, frame: av.VideoFrame) -> float:
    """Seconds at which a frame is shown; called once for each."""
    stamp: int | None = frame.pts
    if self._is_avi:
      stamp = self._decoding.popleft() if self._decoding else None
    if stamp is None:
      seconds = max(self._last, -self._step) + self._step
    else:
      if self._zero is None:
        self._zero = stamp * self._tick
      seconds = stamp * self._tick - self._zero
      if seconds <= self._last:
        seconds = self._last + self._step
    self._last = seconds
    return seconds

  def _leaps(self, stamp: int) -> bool:
    """Whether a decoding time jumps; if so, all that follows is shifted."""
    if self._before is None:
      return False
    self.apart = (stamp + self._shift - self._before) * self._tick
    # Where frames are reordered, a pause appears in the display times first.
    top = self._before if self._top is None else max(self._before, self._top)
    ahead = (stamp + self._shift - top) * self._tick
    if -self._back <= self.apart and ahead <= self._ahead:
      return False
    step = round(self._step / self._tick)
    self._shift = self._before + step - stamp
    self.leaps, self.apart = self.leaps + 1, self._step
    return True
