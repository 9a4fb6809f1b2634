"""Stable Diffusion's autoencoder of images under the names of diffusers.

Its attention was renamed once: older files are read, and written again, under
the naming `diffusers-old`.
"""

import functools

from video_dit.interop import diffusers_autoencoder
from video_dit.models.autoencoder import stable

OLD = "diffusers-old"
_SPELLING: diffusers_autoencoder.Spelling = (
  (r"^(encoder/.*)/change$", r"\1/downsamplers/0/conv"),
  (r"^(decoder/.*)/change/conv$", r"\1/upsamplers/0/conv"),
  (r"/norm_out$", "/conv_norm_out"),
)
FORMAT = diffusers_autoencoder.Format(
  kind="sd_autoencoder",
  peer="AutoencoderKL",
  licence="MIT with stabilityai/sd-vae-ft-mse; others of the kind have their own",
  config=stable.StableConfig,
  model=stable.Stable,
  levels=stable.LEVELS,
  spellings={
    diffusers_autoencoder.NAMING: _SPELLING,
    OLD: (
      *_SPELLING,
      (r"/to_q$", "/query"),
      (r"/to_k$", "/key"),
      (r"/to_v$", "/value"),
      (r"/to_out/0$", "/proj_attn"),
    ),
  },
  axes=((r"attentions\.", 2), (r"", 4)),
)
KINDS = (FORMAT.kind,)
CLASSES = (FORMAT.peer,)

matches = functools.partial(diffusers_autoencoder.matches, FORMAT)
read = functools.partial(diffusers_autoencoder.read, FORMAT)
write = functools.partial(diffusers_autoencoder.write, FORMAT)
