"""Compiled modules, written by hand."""


def entry(*body: str) -> str:
  """The text of a module whose one computation has these instructions."""
  lines = "\n".join(f"  {line}" for line in body)
  return f"HloModule test\n\nENTRY %main (x: f32[1000]) -> f32[1000] {{\n{lines}\n}}\n"
