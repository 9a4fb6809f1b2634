"""Names of the tensors of Wan's transformers, and how they lie in ours."""

import re

from video_dit.interop.names import Rule

# Names by which a naming is recognised, with the number of the block.
PROBES = {
  "diffusers": re.compile(r"blocks\.(\d+)\.attn1\.norm_q\.weight"),
  "native": re.compile(r"blocks\.(\d+)\.self_attn\.norm_q\.weight"),
}

# Ours to theirs.
_ENDS = {
  "diffusers": {
    "time1": "condition_embedder.time_embedder.linear_1",
    "time2": "condition_embedder.time_embedder.linear_2",
    "modulation": "condition_embedder.time_proj",
    "text1": "condition_embedder.text_embedder.linear_1",
    "text2": "condition_embedder.text_embedder.linear_2",
    "head": "proj_out",
  },
  "native": {
    "time1": "time_embedding.0",
    "time2": "time_embedding.2",
    "modulation": "time_projection.1",
    "text1": "text_embedding.0",
    "text2": "text_embedding.2",
    "head": "head.head",
  },
}
_TABLES = {
  "diffusers": {"last": "scale_shift_table", "blocks": "scale_shift_table"},
  "native": {"last": "head.modulation", "blocks": "modulation"},
}
_ATTENTION = {
  "diffusers": {
    **{"self": "attn1", "text": "attn2", "q": "to_q", "k": "to_k", "v": "to_v"},
    **{"out": "to_out.0", "norm": "norm2", "up": "ffn.net.0.proj", "down": "ffn.net.2"},
  },
  "native": {
    **{"self": "self_attn", "text": "cross_attn", "q": "q", "k": "k", "v": "v"},
    **{"out": "o", "norm": "norm3", "up": "ffn.0", "down": "ffn.2"},
  },
}


def table(
  depth: int, heads: int, patch: tuple[int, int, int], naming: str
) -> tuple[Rule, ...]:
  """Ours to theirs.

  Theirs rotate neighbouring channels of a head, ours its halves: the channels of all
  queries, keys and values of self-attention, `(a k two)` of theirs, are `(a two k)` here,
  as are those that its output takes.

  Args:
    depth: number of blocks.
    heads: number of heads.
    patch: extent of a token.
    naming: `diffusers` or `native`.
  """
  frames, rows, columns = patch
  extent = {"f": frames, "h": rows, "w": columns}
  embed, last = "patch_embedding", _TABLES[naming]["last"]
  rules = [
    Rule("embed/kernel", f"{embed}.weight", "d c f h w -> (f h w c) d", extent),
    Rule("embed/bias", f"{embed}.bias"),
    Rule("last", last, "1 two d -> two d"),
  ]
  for ours, theirs in _ENDS[naming].items():
    rules.append(Rule(f"{ours}/kernel", f"{theirs}.weight", "o i -> i o"))
    rules.append(Rule(f"{ours}/bias", f"{theirs}.bias"))

  def add(ours: str, theirs: str | tuple[str, ...], pattern: str = "", **sizes: int):
    there: str | tuple[str, ...] = f"blocks.{{i}}.{theirs}"
    if not isinstance(theirs, str):
      there = tuple(f"blocks.{{i}}.{name}" for name in theirs)
    rules.append(Rule(f"blocks/{ours}", there, pattern, sizes, layers=depth))

  name = _ATTENTION[naming]
  within, across = name["self"], name["text"]
  split = {"a": heads, "two": 2}

  def each(part: str, kinds: str, end: str) -> tuple[str, ...]:
    return tuple(f"{part}.{name[kind]}.{end}" for kind in kinds)

  add("modulation", _TABLES[naming]["blocks"], "1 six d -> six d")
  qkv = (each(within, "qkv", "weight"), each(within, "qkv", "bias"))
  add("qkv/kernel", qkv[0], "three (a k two) i -> i (a three two k)", three=3, **split)
  add("qkv/bias", qkv[1], "three (a k two) -> (a three two k)", three=3, **split)
  for norm in ("q_norm", "k_norm"):
    theirs = f"norm_{norm[0]}.weight"
    add(f"{norm}/scale", f"{within}.{theirs}", "(a k two) -> (a two k)", **split)
    add(f"text_{norm}/scale", f"{across}.{theirs}")
  out = name["out"]
  add("out/kernel", f"{within}.{out}.weight", "o (a k two) -> (a two k) o", **split)
  add("out/bias", f"{within}.{out}.bias")
  add("text_norm/scale", f"{name['norm']}.weight")
  add("text_norm/bias", f"{name['norm']}.bias")
  kv = (each(across, "kv", "weight"), each(across, "kv", "bias"))
  add("text_kv/kernel", kv[0], "two (a k) i -> i (a two k)", **split)
  add("text_kv/bias", kv[1], "two (a k) -> (a two k)", **split)
  for ours, theirs in (
    ("text_q", f"{across}.{name['q']}"),
    ("text_out", f"{across}.{out}"),
    ("up", name["up"]),
    ("down", name["down"]),
  ):
    add(f"{ours}/kernel", f"{theirs}.weight", "o i -> i o")
    add(f"{ours}/bias", f"{theirs}.bias")
  return tuple(rules)
