"""HunyuanVideo's autoencoder under the names of diffusers."""

import functools

from video_dit.interop import diffusers_autoencoder
from video_dit.models.autoencoder import hunyuan

FORMAT = diffusers_autoencoder.Format(
  kind="hunyuan_autoencoder",
  peer="AutoencoderKLHunyuanVideo",
  licence=(
    "Tencent Hunyuan community licence, which does not hold in the European Union, the"
    " United Kingdom and South Korea"
  ),
  config=hunyuan.HunyuanConfig,
  model=hunyuan.Hunyuan,
  levels=hunyuan.LEVELS,
  spellings={
    diffusers_autoencoder.NAMING: (
      (r"^(encoder/.*)/change$", r"\1/downsamplers/0/conv/conv"),
      (r"^(decoder/.*)/change/conv$", r"\1/upsamplers/0/conv/conv"),
      (r"/(conv_in|conv_out|conv1|conv2|conv_shortcut)$", r"/\1/conv"),
      (r"/norm_out$", "/conv_norm_out"),
    )
  },
  axes=((r"attentions\.", 2), (r"", 5)),
  probe="encoder.down_blocks.0.downsamplers.0.conv.conv.weight",
)
KINDS = (FORMAT.kind,)
CLASSES = (FORMAT.peer,)

matches = functools.partial(diffusers_autoencoder.matches, FORMAT)
read = functools.partial(diffusers_autoencoder.read, FORMAT)
write = functools.partial(diffusers_autoencoder.write, FORMAT)
