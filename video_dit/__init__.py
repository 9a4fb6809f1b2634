"""Training of Sora-style video diffusion transformers in JAX."""

import sys

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # One of the commands, whose imports take seconds.
  from video_dit import interrupt, usage

  interrupt.install()
  usage.answer(sys.orig_argv[-len(sys.argv)], sys.argv[1:])
