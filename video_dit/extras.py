"""How to install the extras of setup.cfg, for messages."""


def command(name: str) -> str:
  """The command that installs an extra, at versions tested together."""
  # Beam asks for older versions of some packages.
  constraints = "constraints-all.txt" if name == "beam" else "constraints.txt"
  return f"pip install -c {constraints} -e '.[{name}]' (in video_dit's clone)"
