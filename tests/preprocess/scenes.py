"""Rendered clips that a filter has something to say of."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def texture(
  frames: int, *, seed: int = 0, speed: int = 1, hue: int = 0, size=(120, 160)
) -> np.ndarray:
  """A smooth random picture that moves sideways by `speed` pixels a frame."""
  rng = np.random.default_rng(seed)
  height, width = size
  small = rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
  small[..., hue % 3] //= 3
  picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
  picture_HWC = np.asarray(picture)
  return np.stack([np.roll(picture_HWC, speed * i, axis=1) for i in range(frames)])


def brightening(frames: int) -> np.ndarray:
  """Grey that becomes lighter by an equal step each frame."""
  levels = np.linspace(40, 220, frames).astype(np.uint8)
  return np.broadcast_to(levels[:, None, None, None], (frames, 64, 64, 3)).copy()


def blurred(clip_FHWC: np.ndarray, radius: float) -> np.ndarray:
  """The clip out of focus."""
  blur = ImageFilter.GaussianBlur(radius)
  return np.stack([np.asarray(Image.fromarray(f).filter(blur)) for f in clip_FHWC])


def titled(clip_FHWC: np.ndarray, text: str, points: int = 16) -> np.ndarray:
  """The clip with lines of white text, outlined in black, over it."""

  def draw(frame_HWC: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame_HWC)
    ImageDraw.Draw(image).multiline_text(
      (8, 8), text, fill="white", stroke_width=1, stroke_fill="black", font_size=points
    )
    return np.asarray(image)

  return np.stack([draw(frame_HWC) for frame_HWC in clip_FHWC])
