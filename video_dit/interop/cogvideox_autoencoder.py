"""CogVideoX's autoencoder under the names of diffusers."""

import functools

from video_dit.interop import diffusers_autoencoder
from video_dit.models.autoencoder import cogvideox

FORMAT = diffusers_autoencoder.Format(
  kind="cogvideox_autoencoder",
  peer="AutoencoderKLCogVideoX",
  licence="Apache-2.0 with CogVideoX-2B; the CogVideoX licence with the 5B models",
  config=cogvideox.CogVideoXConfig,
  model=cogvideox.CogVideoX,
  levels=cogvideox.LEVELS,
  spellings={
    diffusers_autoencoder.NAMING: (
      (r"^(encoder/.*)/change/conv$", r"\1/downsamplers/0/conv"),
      (r"^(decoder/.*)/change/conv$", r"\1/upsamplers/0/conv"),
      (r"/(conv_in|conv_out|conv1|conv2)$", r"/\1/conv"),
      (r"/(norm\w+)/norm$", r"/\1/norm_layer"),
      (r"/(norm\w+)/scale$", r"/\1/conv_y/conv"),
      (r"/(norm\w+)/shift$", r"/\1/conv_b/conv"),
    )
  },
  axes=((r"samplers\.", 4), (r"", 5)),
  probe="decoder.norm_out.conv_y.conv.weight",
)
KINDS = (FORMAT.kind,)
CLASSES = (FORMAT.peer,)

matches = functools.partial(diffusers_autoencoder.matches, FORMAT)
read = functools.partial(diffusers_autoencoder.read, FORMAT)
write = functools.partial(diffusers_autoencoder.write, FORMAT)
