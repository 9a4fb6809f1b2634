"""What is mistaken for a checkpoint, told by its first bytes or by the tensors' names."""

from collections.abc import Iterable, Mapping
import pathlib
import re

from video_dit.interop.extent import Extent

_POINTER = b"version https://git-lfs.github.com/spec/v1"
_PAGES = (b"<!doctype html", b"<html")
_LONGEST_START = 512

_LORA = re.compile(
  r"(.*[._])?(lora_(a|b|up|down|mid|magnitude)|lora\.(up|down)|lokr_w|hada_w).*", re.I
)
# Beside the matrices of the quantisers that are common: their scales and tables.
_QUANTISED = re.compile(
  r"(.*\.)?(scaled_fp8|scale_weight|weight_scale|weight_scale_inv|scale_input"
  r"|input_scale|SCB|absmax|nested_absmax|quant_map|quant_state\..*|qweight|qzeros)"
)


def check_start(path: pathlib.Path) -> None:
  """Refuses what stands in the place of a file that was not fetched.

  Raises:
    ValueError: it is a pointer of git-lfs or a web page.
  """
  with path.open("rb") as file:
    start = file.read(_LONGEST_START)
  if start.startswith(_POINTER):
    raise ValueError(
      f"{path}: is a pointer of git-lfs, not the file itself. Run `git lfs pull` in its"
      " folder."
    )
  if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
    raise ValueError(
      f"{path}: is a web page, not the file itself. Fetch the file by its download"
      " address, signed in where it needs that."
    )


def check_names(path: pathlib.Path, extents: Mapping[str, Extent]) -> None:
  """Refuses tensors that need more than reading to be a model's weights.

  Raises:
    ValueError: they are low-rank changes to weights, or quantised.
  """
  if name := _first(_LORA, extents):
    raise ValueError(
      f"{path}: holds low-rank changes to weights, a LoRA ({name}), which are not"
      " supported. Merge them into their model's weights first."
    )
  narrow = (
    name
    for name, extent in extents.items()
    if extent.dtype.kind in "iu" and extent.dtype.itemsize == 1
    if name.endswith(".weight") and len(extent.shape) > 1
  )
  if name := _first(_QUANTISED, extents) or next(narrow, None):
    raise ValueError(
      f"{path}: holds quantised weights ({name}, {extents[name].dtype}), which are not"
      " supported. Dequantise them first, or name the original weights."
    )


def _first(pattern: re.Pattern[str], names: Iterable[str]) -> str | None:
  return next((name for name in names if pattern.fullmatch(name)), None)
