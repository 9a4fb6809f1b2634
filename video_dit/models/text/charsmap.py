"""SentencePiece's table of character rewritings, applied as Hugging Face applies it.

The table is a double-array trie (Yata et al. 2007, in the layout of the Darts-clone
library) from byte strings to offsets in a blob of replacements. SentencePiece takes the
longest match. Hugging Face goes by grapheme clusters, and replaces a whole cluster by its
shortest matching prefix: so a fullwidth letter with a combining accent loses the accent.
Published encoders are used with Hugging Face's ids.
"""

import functools

import numpy as np
import regex

_CLUSTER = regex.compile(r"\X")
_LONGEST_CLUSTER = 5  # bytes; longer clusters are rewritten character by character


class Charsmap:
  """Rewrites text by a `precompiled_charsmap`; an empty one changes nothing."""

  def __init__(self, table: bytes):
    """Reads a table.

    Raises:
      ValueError: it is shorter than its header says.
    """
    size = int.from_bytes(table[:4], "little")
    if table and (size % 4 or 4 + size > len(table)):
      raise ValueError(f"a charsmap of {len(table)} bytes whose trie has {size}")
    self._trie = np.frombuffer(table, "<u4", size // 4, 4).tolist() if table else []
    self._texts = table[4 + size :]
    self._cluster = functools.lru_cache(1 << 16)(self._rewrite_cluster)

  def __call__(self, text: str) -> str:
    """The text, rewritten."""
    if not self._trie:
      return text
    return "".join(map(self._cluster, _CLUSTER.findall(text)))

  def _rewrite_cluster(self, cluster: str) -> str:
    if len(cluster.encode(errors="replace")) <= _LONGEST_CLUSTER:
      whole = self._find(cluster)
      if whole is not None:
        return whole
    parts = ((self._find(c), c) for c in cluster)
    return "".join(c if found is None else found for found, c in parts)

  def _find(self, text: str) -> str | None:
    """Replacement of the shortest matching prefix of a text; None if none matches."""
    trie, node = self._trie, _offset(self._trie[0])
    for byte in text.encode(errors="replace"):
      node ^= byte
      if not byte or node >= len(trie) or trie[node] & 0x800000FF != byte:
        return None
      has_leaf = trie[node] >> 8 & 1
      node ^= _offset(trie[node])
      if has_leaf:
        start = trie[node] & 0x7FFFFFFF
        end = self._texts.find(b"\0", start)
        return self._texts[start : end if end >= 0 else None].decode(errors="replace")
    return None


def _offset(unit: int) -> int:
  return unit >> 10 << ((unit & 1 << 9) >> 6)
