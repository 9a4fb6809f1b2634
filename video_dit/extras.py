"""The extras of setup.cfg, as messages say how they are installed."""


def command(name: str) -> str:
  """What installs an extra at versions that were tried together."""
  # Beam asks for older versions of some packages.
  constraints = "constraints-all.txt" if name == "beam" else "constraints.txt"
  return f"pip install -c {constraints} -e '.[{name}]' (in video_dit's clone)"
