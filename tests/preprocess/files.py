"""Tiny media files, good and bad."""

import pathlib

import numpy as np

from video_dit.media import write


def moving(frames: int, height: int, width: int, seed: int) -> np.ndarray:
  """A block that moves over noise of low contrast, `(F, H, W, 3)` uint8."""
  rng = np.random.default_rng(seed)
  clip_FHWC = np.repeat(rng.integers(90, 110, (1, height, width, 3)), frames, axis=0)
  for i in range(frames):
    clip_FHWC[i, i % height :][:8, :8] = rng.integers(0, 255, 3)
  return clip_FHWC.astype(np.uint8)


def write_media(folder: pathlib.Path) -> None:
  """Good files of several formats and lengths, and some that are not."""
  folder.mkdir(parents=True)
  lengths = {"a.mp4": 9, "b.mp4": 9, "c.mp4": 21, "-d.gif": 5, "e 'q' 🐈.png": 1}
  for seed, (name, frames) in enumerate(lengths.items()):
    write.write_video(folder / name, moving(frames, 32, 32, seed), 8.0)
    (folder / name).with_suffix(".txt").write_text(f"clip {name[0]}, {frames} frames")
  (folder / "b.txt").write_text("clip a, 9 frames")
  (folder / "sub").mkdir()
  (folder / "sub" / "again.mp4").write_bytes((folder / "a.mp4").read_bytes())
  (folder / "torn.mp4").write_bytes((folder / "c.mp4").read_bytes()[:700])
  write.write_video(folder / "short.mp4", moving(3, 32, 32, 9), 8.0)
  (folder / "page.mp4").write_text("<html>not found</html>")
