"""Made-up sets to pack: tokens and text tokens of each clip."""

import numpy as np

from configs import demo as demo_config
from video_dit import config
from video_dit.media.shapes import scene

# Tokens of one latent frame at 144p, 240p, 360p, 480p and 720p, and how often each is
# drawn: 16 pixels a token.
_FRAME = np.array([9 * 16, 15 * 26, 23 * 40, 30 * 53, 45 * 80])
_SHARES = (0.02, 0.08, 0.2, 0.3, 0.4)

Clips = tuple[np.ndarray, np.ndarray]


def web(num: int, images: float = 0.5, seed: int = 0) -> Clips:
  """Images of 256 to 4,096 tokens, and clips of log-normal length, 1,000 to 30,000."""
  rng = np.random.default_rng(seed)
  is_image = rng.random(num) < images
  tokens = np.where(is_image, _images(num, rng), _videos(num, rng))
  return tokens.astype(np.int32), rng.integers(8, 64, num).astype(np.int32)


def _images(num: int, rng: np.random.Generator) -> np.ndarray:
  """Native aspect ratios at an area between 16 by 16 and 64 by 64 tokens."""
  area = np.exp(rng.uniform(np.log(256), np.log(4096), num))
  height = np.round(np.sqrt(area) * np.exp(rng.normal(0, 0.35, num)))
  return (height * np.floor(area / height)).clip(256, 4096)


def _videos(num: int, rng: np.random.Generator) -> np.ndarray:
  """Drawn again until the length is within bounds."""
  tokens = np.zeros(num)
  while (out := (tokens < 1000) | (tokens > 30_000)).any():
    frames = np.ceil(np.exp(rng.normal(np.log(12), 0.9, out.sum())))
    tokens[out] = frames * rng.choice(_FRAME, out.sum(), p=_SHARES)
  return tokens


def shapes(num: int, seed: int = 0) -> Clips:
  """The demo's clips: few sizes, short rows."""
  rng = np.random.default_rng(seed)

  def drawn(odds: dict) -> np.ndarray:
    return rng.choice(np.array(list(odds)), num, p=np.array(list(odds.values())))

  frames = np.where(rng.random(num) < scene.IMAGES, 1, drawn(scene.LENGTHS))
  height, width = rng.choice(
    np.array(list(scene.SIZES)), num, p=list(scene.SIZES.values())
  ).T
  tokens = (1 + (frames - 1) // 4) * (height // 8) * (width // 8)
  text = np.where(rng.random(num) < scene.PAIRS, 28, rng.integers(7, 17, num))
  return tokens.astype(np.int32), text.astype(np.int32)


def demo() -> config.Data:
  """The demo's rows."""
  return config.parse(demo_config.get_config()).data
