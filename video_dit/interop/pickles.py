"""Reads pickles without running them: a small machine for the few opcodes needed.

Python's unpickler calls what a pickle names. Here names are looked up in a table of what
is admitted; a pickle that names anything else is refused before its first tensor is read.
"""

from collections.abc import Callable, Iterator, Mapping
import io
import pathlib
import pickletools
import reprlib
from typing import Any

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
  *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
  *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
  *("BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {
  **{"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
}
_IGNORED = {"PROTO", "FRAME"}
_WIDEST_KEY, _WIDEST_INT = 8, 64  # entries, bits


class _Refused(ValueError):
  """The pickle names what is not admitted."""


def load(
  text: bytes,
  start: int,
  path: pathlib.Path,
  admitted: Mapping[str, Any],
  persistent: Callable[[Any], Any],
) -> tuple[Any, int]:
  """Reads one pickle.

  Args:
    text: bytes that hold it.
    start: where in them it begins.
    path: of the file, for messages.
    admitted: by `module.name`, the functions and values that stand for what it names.
    persistent: turns a persistent id into what it stands for.

  Returns:
    Its value, and where in `text` it ends.

  Raises:
    ValueError: it names anything that is not admitted, or it is damaged.
  """
  file = io.BytesIO(text)
  file.seek(start)
  try:
    return _run(file, admitted, persistent), file.tell()
  except _Refused as e:
    raise ValueError(
      f"{path}: its pickle {e}. Only tensors, storages and plain values are read from"
      " pickled files, and nothing in them is run. Convert it to safetensors where you"
      " trust it."
    ) from e
  except Exception as e:  # Whatever a damaged pickle does to the stack.
    raise ValueError(
      f"{path}: its pickle is damaged ({e!r}). Copy the file again."
    ) from e


def _run(file: io.BytesIO, admitted: Mapping[str, Any], persistent) -> Any:
  """The machine: a stack, and what was stored to be used again."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}

  def popped() -> list[Any]:
    """What lies above the last mark, which goes too."""
    at = marks.pop()
    items = stack[at:]
    del stack[at:]
    return items

  def entries() -> Iterator[tuple[Any, Any]]:
    """Keys and values above the last mark."""
    items = popped()
    return zip(map(_key, items[::2]), items[1::2], strict=True)

  argument: Any
  for opcode, argument, _ in pickletools.genops(file):
    match opcode.name:
      case name if name in _IGNORED:
        pass
      case name if name in _LITERALS:
        stack.append(argument)
      case name if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case name if name in _EMPTY:
        stack.append(_EMPTY[name]())
      case "MARK":
        marks.append(len(stack))
      case "BINPUT" | "LONG_BINPUT" | "PUT":
        memo[argument] = stack[-1]
      case "MEMOIZE":
        memo[len(memo)] = stack[-1]
      case "BINGET" | "LONG_BINGET" | "GET":
        stack.append(memo[argument])
      case "TUPLE":
        stack.append(tuple(popped()))
      case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
      case "LIST":
        stack.append(popped())
      case "DICT":
        stack.append(dict(entries()))
      case "APPEND":
        value = stack.pop()
        stack[-1].append(value)
      case "APPENDS":
        items = popped()
        stack[-1].extend(items)
      case "ADDITEMS":
        items = popped()
        stack[-1].update(map(_key, items))
      case "SETITEM":
        value, key = stack.pop(), stack.pop()
        stack[-1][_key(key)] = value
      case "SETITEMS":
        pairs = entries()
        stack[-1].update(pairs)
      case "GLOBAL":
        module, _, name = argument.partition(" ")
        stack.append(_named(module, name, admitted))
      case "STACK_GLOBAL":
        name, module = stack.pop(), stack.pop()
        stack.append(_named(module, name, admitted))
      case "BINPERSID":
        stack.append(persistent(stack.pop()))
      case "REDUCE" | "NEWOBJ":
        arguments, function = stack.pop(), stack.pop()
        if not (callable(function) and any(function is f for f in admitted.values())):
          raise _Refused(f"calls {reprlib.repr(function)}")
        stack.append(function(*arguments))
      case "BUILD":  # Attributes of a dictionary or a tensor: of no use here.
        stack.pop()
      case "STOP":
        return stack.pop()
      case name:
        raise _Refused(f"has the instruction {name}")
  raise EOFError("it does not end")


def _named(module: Any, name: Any, admitted: Mapping[str, Any]) -> Any:
  if not (isinstance(module, str) and isinstance(name, str)):
    raise _Refused("names something by a value that is not text")
  if f"{module}.{name}" not in admitted:
    raise _Refused(f"names {module}.{name}")
  return admitted[f"{module}.{name}"]


def _key(value: Any) -> Any:
  """A key, unless it is one that hashing may walk through for ever."""
  parts = value if isinstance(value, tuple) else (value,)
  nested = any(isinstance(part, tuple) for part in parts)
  if nested or len(parts) > _WIDEST_KEY or any(map(_is_huge, parts)):
    raise _Refused("has a key that is not a name, a number or a short tuple of them")
  return value


def _is_huge(value: Any) -> bool:
  return isinstance(value, int) and value.bit_length() > _WIDEST_INT
