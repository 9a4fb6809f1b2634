"""Clips that look alike are found among all, exactly, however they fall into buckets."""

import itertools

import numpy as np
import pytest

from video_dit.preprocess import hashes


def _clips(n, bits):
  """Hashes `(n, 4)`: clips, others near them, the same again, and frames of nothing."""
  rng = np.random.default_rng(0)
  clips_NF = rng.integers(1, 2**63, (n, hashes.FRAMES), np.uint64)
  for i in range(1, n, 2):
    clips_NF[i] = clips_NF[rng.integers(i)]
    for f in range(hashes.FRAMES):
      for bit in rng.integers(0, 64, rng.integers(bits)):
        clips_NF[i, f] ^= np.uint64(1) << np.uint64(bit)
  clips_NF[rng.integers(0, n, n // 8), rng.integers(0, 4, n // 8)] = 0
  clips_NF[[n // 3, n // 2]] = 0  # of which nothing is known
  return clips_NF


def _one_by_one(clips_NF, most_bits):
  """The first clip that shares a bucket with each and looks like it."""
  found = {}
  buckets = [set(hashes.bands(clip)) for clip in clips_NF.tolist()]
  for i, clip_F in enumerate(clips_NF):
    same = [j for j in range(i) if buckets[i] and (clips_NF[j] == clip_F).all()]
    if same:
      found[i] = same[0], 0.0
      continue
    for j in range(i):
      bits_FF = np.bitwise_count(clip_F[:, None] ^ clips_NF[j][None])
      bits = max(bits_FF.min(axis=0).mean(), bits_FF.min(axis=1).mean())
      if buckets[i] & buckets[j] and bits <= most_bits:
        found[i] = j, bits
        break
  return found


@pytest.mark.parametrize("few", [False, True], ids=["all_buckets", "few_buckets"])
def test_all_that_look_alike_are_found(few, monkeypatch):
  monkeypatch.setattr(hashes, "_ROWS", 7)
  monkeypatch.setattr(hashes, "_PAIRS", 300)
  clips_NF = _clips(400, 12)
  if few:  # as where many clips begin alike
    clips_NF[::2] &= np.uint64(2**64 - 2**24)
  wanted = _one_by_one(clips_NF, 6.0)
  assert 60 < len(wanted) < 300
  alike = hashes.Alike()
  for i, clip in enumerate(clips_NF.tolist()):
    alike.add(10 * i, clip, f"{i:x}")
  assert alike.find(6.0) == {10 * i: (f"{j:x}", b) for i, (j, b) in wanted.items()}
  # The pipeline looks bucket by bucket, and takes the first of what it finds.
  held = {}
  for i, clip in enumerate(clips_NF.tolist()):
    for band in hashes.bands(clip):
      held.setdefault(band, []).append((i, clip))
  found = {}
  for i, j, bits in itertools.chain(
    *(hashes.first_alike(reversed(clips), 6.0) for clips in held.values())
  ):
    found[i] = min(found.get(i, (j, bits)), (j, bits))
  assert found == wanted


def test_no_clips_and_one_clip():
  alike = hashes.Alike()
  assert alike.find(6.0) == {}
  alike.add(1, [1, 2, 3, 4], "a")
  assert alike.find(6.0) == {}
  assert list(hashes.first_alike([], 6.0)) == []
