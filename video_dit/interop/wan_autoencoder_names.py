"""Names of the tensors of Wan's autoencoders: diffusers' and Wan's own.

Wan 2.1's encoder counts its parts through all levels, and so does Wan's own decoder;
Wan 2.2 has levels in both. The paths of ours are those of `models/autoencoder/wan.py`.
"""

from collections.abc import Iterable, Iterator

from video_dit.interop.names import Rule
from video_dit.models.autoencoder.wan import WanConfig

# Ours to theirs, inside a residual block and inside attention.
_BLOCK = {
  "diffusers": {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
  },
  "native": {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "shortcut": "shortcut",
  },
}
_ATTENTION = {"norm": "norm", "qkv": "to_qkv", "out": "proj"}
_RESAMPLE = {"space": "resample.1", "time": "time_conv"}
# Ours to theirs, of the single modules and the stems of the blocks.
_ENDS = {
  "diffusers": {
    "encoder/conv_in": "encoder.conv_in",
    "encoder/norm": "encoder.norm_out",
    "encoder/conv_out": "encoder.conv_out",
    "encoder/quantize": "quant_conv",
    "encoder/middle/before": "encoder.mid_block.resnets.0",
    "encoder/middle/attention": "encoder.mid_block.attentions.0",
    "encoder/middle/after": "encoder.mid_block.resnets.1",
    "decoder/dequantize": "post_quant_conv",
    "decoder/conv_in": "decoder.conv_in",
    "decoder/norm": "decoder.norm_out",
    "decoder/conv_out": "decoder.conv_out",
    "decoder/middle/before": "decoder.mid_block.resnets.0",
    "decoder/middle/attention": "decoder.mid_block.attentions.0",
    "decoder/middle/after": "decoder.mid_block.resnets.1",
  },
  "native": {
    "encoder/conv_in": "encoder.conv1",
    "encoder/norm": "encoder.head.0",
    "encoder/conv_out": "encoder.head.2",
    "encoder/quantize": "conv1",
    "encoder/middle/before": "encoder.middle.0",
    "encoder/middle/attention": "encoder.middle.1",
    "encoder/middle/after": "encoder.middle.2",
    "decoder/dequantize": "conv2",
    "decoder/conv_in": "decoder.conv1",
    "decoder/norm": "decoder.head.0",
    "decoder/conv_out": "decoder.head.2",
    "decoder/middle/before": "decoder.middle.0",
    "decoder/middle/attention": "decoder.middle.1",
    "decoder/middle/after": "decoder.middle.2",
  },
}
# A level's blocks (and attentions), then its step, by naming and whether residual:
# `flat` counts through all levels, `inner` inside one.
_ENCODER = {
  ("diffusers", False): ("encoder.down_blocks.{flat}",) * 2,
  ("diffusers", True): (
    "encoder.down_blocks.{level}.resnets.{inner}",
    "encoder.down_blocks.{level}.downsampler",
  ),
  ("native", False): ("encoder.downsamples.{flat}",) * 2,
  ("native", True): ("encoder.downsamples.{level}.downsamples.{inner}",) * 2,
}
_DECODER = {
  ("diffusers", False): (
    "decoder.up_blocks.{level}.resnets.{inner}",
    "decoder.up_blocks.{level}.upsamplers.0",
  ),
  ("diffusers", True): (
    "decoder.up_blocks.{level}.resnets.{inner}",
    "decoder.up_blocks.{level}.upsampler",
  ),
  ("native", False): ("decoder.upsamples.{flat}",) * 2,
  ("native", True): ("decoder.upsamples.{level}.upsamples.{inner}",) * 2,
}
_INSIDE = {"attentions": _ATTENTION, "attention": _ATTENTION} | dict.fromkeys(
  ("down", "up"), _RESAMPLE
)


def table(arch: WanConfig, naming: str, params: Iterable[str]) -> tuple[Rule, ...]:
  """Ours to theirs: kernels with their biases, and the norms' scales.

  Args:
    arch: the sizes.
    naming: `diffusers` or `native`.
    params: paths of all parameters that an autoencoder of these sizes has.
  """
  rules = []
  there = {path.rsplit("/", 1)[0] for path in params}
  for ours, theirs in _layers(arch, naming, there).items():
    leaf = ours.rsplit("/", 1)[-1]
    if leaf.startswith("norm"):
      # Those of attention are of frames, all others of clips.
      ones = "1 1" if "attention" in ours else "1 1 1"
      rules.append(Rule(f"{ours}/scale", f"{theirs}.gamma", f"c {ones} -> c"))
      continue
    pattern = "o i d h w -> d h w i o"
    if leaf in ("space", "qkv", "out"):
      pattern = "o i h w -> 1 h w i o"
    rules.append(Rule(f"{ours}/kernel", f"{theirs}.weight", pattern))
    rules.append(Rule(f"{ours}/bias", f"{theirs}.bias"))
  return tuple(rules)


def _layers(arch: WanConfig, naming: str, there: set[str]) -> dict[str, str]:
  """Single convolutions and norms: our path to the stem of theirs."""
  found = {}
  for ours, theirs in (_ENDS[naming] | dict(_parts(arch, naming))).items():
    if ours in there:
      found[ours] = theirs
      continue
    kind = next(part for part in reversed(ours.split("/")) if not part.isdigit())
    for a, b in _INSIDE.get(kind, _BLOCK[naming]).items():
      if f"{ours}/{a}" in there:
        found[f"{ours}/{a}"] = f"{theirs}.{b}"
  return found


def _parts(arch: WanConfig, naming: str) -> Iterator[tuple[str, str]]:
  """Blocks, attentions and steps of the levels: ours to theirs."""
  count = len(arch.dim_mult)
  for ends, side, step, extra in (
    (_ENCODER, "encoder", "down", 0),
    (_DECODER, "decoder", "up", 1),
  ):
    block, change = ends[naming, arch.is_residual]
    flat = 0
    for level in range(count):
      attends = 0.5**level in arch.attn_scales and not arch.is_residual and not extra
      inner = 0
      for i in range(arch.num_res_blocks + extra):
        for ours in ("blocks", "attentions")[: 1 + attends]:
          theirs = block.format(level=level, inner=inner, flat=flat)
          yield f"{side}/levels/{level}/{ours}/{i}", theirs
          inner, flat = inner + 1, flat + 1
      if level < count - 1:
        theirs = change.format(level=level, inner=inner, flat=flat)
        yield f"{side}/levels/{level}/{step}", theirs
        flat += 1
