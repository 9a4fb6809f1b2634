"""Clips that look alike are found among all, exactly, however they fall into buckets."""

import numpy as np
from PIL import Image
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


def _buckets(clip_F):
  return {(b, int(x) >> 16 * b & 0xFFFF) for x in clip_F if x for b in range(4)}


def _one_by_one(clips_NF, most_bits, held=()):
  """The first clip that stays, shares a bucket with each and looks like it."""
  found, stays = {}, []
  buckets = [_buckets(clip_F) for clip_F in clips_NF]
  for i in sorted(range(len(clips_NF)), key=lambda i: i not in held):
    for j in stays:
      bits_FF = np.bitwise_count(clips_NF[i][:, None] ^ clips_NF[j][None])
      bits = max(bits_FF.min(axis=0).mean(), bits_FF.min(axis=1).mean())
      if buckets[i] & buckets[j] and bits <= most_bits:
        found[i] = j, bits
        break
    else:
      stays.append(i)
  return found


def _found(clips_NF, most_bits, held=()):
  alike = hashes.Alike()
  for i, clip in enumerate(clips_NF.tolist()):
    alike.add(f"{i:x}", clip, is_held=i in held)
  found = alike.find(most_bits)
  return {int(i, 16): (int(j, 16), bits) for i, (j, bits) in found.items()}


@pytest.mark.parametrize("few", [False, True], ids=["all_buckets", "few_buckets"])
@pytest.mark.parametrize("held", [(), range(100, 160)], ids=["", "held"])
def test_all_that_look_like_one_that_stays_are_found(few, held, monkeypatch):
  monkeypatch.setattr(hashes, "_CLIPS", 50)
  monkeypatch.setattr(hashes, "_PAIRS", 300)
  clips_NF = _clips(400, 12)
  if few:  # as where many clips begin alike
    clips_NF[::2] &= np.uint64(2**64 - 2**24)
  wanted = _one_by_one(clips_NF, 6.0, held)
  assert 40 < len(wanted) < 300
  assert _found(clips_NF, 6.0, held) == wanted


def test_what_drifts_does_not_end_in_its_first_clip():
  """Each clip looks like the one before, and soon like none of those that stay."""
  clips_NF = np.full((33, hashes.FRAMES), 2**63, np.uint64)
  for i in range(1, len(clips_NF)):
    clips_NF[i] = clips_NF[i - 1] ^ np.uint64(1 << i)
  found = _found(clips_NF, 3.0)
  assert sorted(set(range(33)) - set(found)) == list(range(0, 33, 4))
  assert found[7] == (4, 3.0)


def test_a_clip_of_one_scene_is_not_like_one_that_has_others_too():
  several, one = [2**60 - 1, 2**50 + 1, 2**40 + 5, 2**63 + 2**33], [2**60 - 1] * 4
  for clips in ([several, one], [one, several]):
    assert _found(np.array(clips, np.uint64), 6.0) == {}


def test_frames_that_show_nothing_bring_no_clips_together():
  rng = np.random.default_rng(0)
  clips_NF = rng.integers(1, 2**63, (2, hashes.FRAMES), np.uint64)
  # A bit of each 16 apart, so that no frame brings them together but the first.
  clips_NF[1] = clips_NF[0] ^ np.uint64(0x0001_0001_0001_0001)
  clips_NF[:, 0] = 7
  assert _found(clips_NF, 6.0) == {1: (0, 3.0)}
  clips_NF[:, 0] = 0
  assert _found(clips_NF, 6.0) == {}


def test_no_clips_and_one_clip():
  alike = hashes.Alike()
  assert alike.find(6.0) == {}
  alike.add("a", [1, 2, 3, 4])
  assert alike.find(6.0) == {}


def test_half_of_the_frequencies_of_a_frame_are_above_the_others():
  rng = np.random.default_rng(0)
  for _ in range(4):
    grey = Image.fromarray(rng.integers(0, 256, (48, 64), np.uint8))
    bits = hashes.perceptual(grey)
    # The first bit is set, so that no frame's hash is 0.
    assert bits >> 63 == 1 and (bits & (2**63 - 1)).bit_count() == 31


def test_the_bits_are_those_of_the_lowest_frequencies_row_by_row():
  rng = np.random.default_rng(0)
  places = np.pi / 32 * (np.arange(32) + 0.5)
  waves_FX = np.cos(np.arange(8)[:, None] * places[None])
  signs = rng.permutation([1] * 31 + [-1] * 32)
  signs_FF = np.concatenate([[0], signs]).reshape(8, 8)  # the mean says nothing
  picture_HW = 128 + 2 * waves_FX.T @ signs_FF @ waves_FX
  assert picture_HW.min() > 0 and picture_HW.max() < 255
  found = hashes.perceptual(Image.fromarray(picture_HW.round().astype(np.uint8)))
  assert f"{found:064b}" == "1" + "".join("1" if sign > 0 else "0" for sign in signs)


def test_a_frame_of_another_size_and_brightness_has_the_same_hash():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 100, (32, 32), np.uint8)
  small = Image.fromarray(coarse)
  large = Image.fromarray(2 * coarse.repeat(2, 0).repeat(3, 1) + 9)
  assert hashes.perceptual(large) == hashes.perceptual(small)
