"""Names of samples, and their gallery."""

from video_dit.generator import records
from video_dit.generator import request as request_lib
from video_dit.sample import files, gallery


def make(**changes) -> records.Sample:
  values = {
    "file": "0000_a_seed0.mp4",
    "prompt": "a",
    "height": 32,
    "width": 32,
    "frames": 9,
    "frames_per_second": 8.0,
    "seed": 0,
    "guidance": 2.0,
  }
  return records.Sample(**(values | changes))


def test_slugs_are_plain_words():
  assert files.slug("A red circle, moving LEFT!") == "a-red-circle-moving-left"
  assert files.slug("../../etc/passwd") == "etc-passwd"
  assert files.slug("") == files.slug("日本") == "clip"
  assert files.slug("café") == "cafe"
  long = files.slug("word " * 40)
  assert len(long) <= 48 and not long.endswith("-")
  assert files.slug("x" * 100) == "x" * 48


def test_names_hold_number_slug_and_seed():
  clip = request_lib.Request(prompt="a cat", height=8, width=8, frames=5, seed=42)
  image = request_lib.Request(prompt="a cat", height=8, width=8, frames=1, seed=42)
  assert files.name(3, clip, "mp4") == "0003_a-cat_seed42.mp4"
  assert files.name(3, image, "mp4") == "0003_a-cat_seed42.png"


def test_the_gallery_shows_prompts_as_text(tmp_path):
  name = "0000_a_seed0.png"
  (tmp_path / name).write_bytes(b"")
  prompt = "<script>alert('x')</script> \"quoted\""
  samples = [make(file=name, prompt=prompt), make(file=name, prompt="")]
  text = gallery.write(tmp_path, samples).read_text()
  assert "<script>" not in text
  assert "&lt;script&gt;" in text
  assert "(empty prompt)" in text
  assert f'src="{name}"' in text
