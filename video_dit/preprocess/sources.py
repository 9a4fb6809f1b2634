"""Where clips come from: a folder, a manifest or a TFDS data set, one line at a time.

A manifest is used only where it is itself the input. Lines are yielded, never gathered.
"""

from collections.abc import Iterator
import errno
import os
import pathlib

from video_dit.preprocess import folders, inputs, manifests, remote, remote_sources


def lines(
  source: str | os.PathLike[str], output: str | os.PathLike[str] = ""
) -> Iterator[inputs.Line]:
  """Yields the lines of a folder, manifest or `tfds:name[:split]`, in a fixed order.

  Args:
    source: what to list.
    output: a folder that is skipped if it is inside the source.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: a file that is not a manifest, or a manifest without a column of paths; or
      the output is the source.
  """
  if str(output).rstrip("/") == str(source).rstrip("/"):
    raise _same(source)
  if str(source).startswith("tfds:"):
    from video_dit.preprocess import tfds_source

    return tfds_source.lines(str(source)[len("tfds:") :])
  if str(source).startswith("memory://") and remote.kind(str(source)):
    source = remote.copy(str(source))  # Other processes cannot see that memory.
  if remote.is_remote(source):
    return remote_sources.lines(str(source), str(output))
  path = pathlib.Path(source)
  if not path.exists():
    raise FileNotFoundError(
      f"--input={source}: no such folder or file. Name a folder of media, a"
      " manifest, or tfds:name."
    )
  if path.is_dir():
    if not os.access(path, os.R_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"--input={source}")
    if (path / "dataset_info.json").is_file() and (path / "features.json").is_file():
      from video_dit.preprocess import tfds_source

      return tfds_source.lines(str(path))
    if os.path.isdir(output) and os.path.samefile(path, output):
      raise _same(source)
    return folders.lines(os.path.abspath(path), output)
  manifests.require(source)
  return manifests.stamped(manifests.lines(path))


def _same(source: str | os.PathLike[str]) -> ValueError:
  return ValueError(
    f"--output={source} is the --input: its files would be read as media."
    f" Name another folder, possibly one inside it, like {os.path.join(source, 'data')}."
  )
