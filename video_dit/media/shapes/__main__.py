"""Writes the demo's media.

Example:
  python -m video_dit.media.shapes --output=out/demo/media --clips=1500 --seed=0
"""

from absl import app, flags

from video_dit.media.shapes import demo

_OUTPUT = flags.DEFINE_string("output", None, "folder of the media", required=True)
_CLIPS = flags.DEFINE_integer("clips", 1500, "number of clips", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of all scenes", lower_bound=0)
_PROMPTS = flags.DEFINE_integer("prompts", 96, "held-out prompts", lower_bound=1)


def main(argv: list[str]) -> None:
  """Writes the media and says how many files there are."""
  if len(argv) > 1:
    raise app.UsageError(f"{argv[1]!r} is not a flag.")
  counts = demo.write_demo(
    _OUTPUT.value, _CLIPS.value, _SEED.value, prompts=_PROMPTS.value
  )
  kinds = ", ".join(f"{count} {suffix[1:]}" for suffix, count in sorted(counts.items()))
  print(f"{_OUTPUT.value}: {kinds}")


if __name__ == "__main__":
  app.run(main)
