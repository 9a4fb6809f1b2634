"""The machine for pickles: what Python's own writes is read, and nothing else happens."""

import collections
import pathlib
import pickle
import random

import pytest

from video_dit.interop import pickles

_PATH = pathlib.Path("a.pt")
_ADMITTED = {"collections.OrderedDict": lambda *_: {}, "torch.FloatStorage": 4}
_PLAIN = {
  "text": "é\n" + "x" * 300,
  "numbers": [0, 1, -1, 255, 256, 65_536, -(2**31), 2**40, 2**2100, 0.5, True, False],
  "nothing": None,
  "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
  "empty": ({}, []),
  3: {(1, "two"): 4},
}


def _load(text: bytes, start: int = 0):
  return pickles.load(text, start, _PATH, _ADMITTED, lambda key: ("stored", key))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol(protocol):
  text = pickle.dumps(_PLAIN, protocol)
  assert _load(text) == (_PLAIN, len(text))
  more = {"bytes": b"\0\xff" * 200, "set": {1, "a"}}
  if protocol > 3:
    assert _load(pickle.dumps(more, protocol))[0] == more


def test_pickles_follow_one_another():
  text = pickle.dumps("first", 2) + pickle.dumps(["second"], 2) + b"rest"
  first, at = _load(text)
  second, end = _load(text, at)
  assert (first, second, text[end:]) == ("first", ["second"], b"rest")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_shared_stays_shared(protocol):
  inner = [1]
  inner.append(inner)
  left, right = _load(pickle.dumps([inner, {"again": inner}], protocol))[0]
  assert left is right["again"] and left[1] is left


def test_what_is_admitted_is_called_and_storages_are_asked_for():
  made = collections.OrderedDict(a=1)
  assert _load(pickle.dumps(made, 2))[0] == {"a": 1}
  storage = b"\x80\x02(X\x01\0\0\0sctorch\nFloatStorage\ntQ."
  assert _load(storage)[0] == ("stored", ("s", 4))


class _Reduced:
  """Pickles as a call."""

  def __init__(self, *call):
    self._call = call

  def __reduce__(self):
    return self._call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_not_admitted_is_named_and_not_called(protocol, tmp_path):
  made = tmp_path / "made"
  text = pickle.dumps({"a": _Reduced(pathlib.Path.touch, (made,))}, protocol)
  with pytest.raises(ValueError, match=r"a\.pt: its pickle names .*nothing in them is"):
    _load(text)
  assert not made.exists()


@pytest.mark.parametrize(
  ("text", "told"),
  [
    (b"(iposix\nsystem\n.", "has the instruction INST"),
    (b"(cposix\nsystem\no.", "names posix.system"),
    (b"(K\x01o.", "has the instruction OBJ"),
    (b"\x82\x01.", "has the instruction EXT1"),
    (b"Pkey\n.", "has the instruction PERSID"),
    (b"K\x01)R.", "calls 1"),
    (b"ctorch\nFloatStorage\n)R.", "calls 4"),
    (b"K\x01K\x02\x93.", "names something by a value that is not text"),
  ],
)
def test_other_instructions_are_refused(text, told):
  with pytest.raises(ValueError, match=rf"its pickle {told}"):
    _load(text)


@pytest.mark.parametrize(
  "text", [b"", b".", b"t.", b"(K\x01", b"h\x07.", b"0.", b"}]K\x01s.", b"X\xff\0\0\0a."]
)
def test_damage_is_one_error_that_names_the_file(text):
  with pytest.raises(ValueError, match=r"a\.pt: its pickle"):
    _load(b"\x80\x02" + text)


def test_damage_anywhere_is_a_value_error():
  text = pickle.dumps(_PLAIN, 2)
  draw = random.Random(0)
  for end in range(len(text)):
    with pytest.raises(ValueError, match=r"a\.pt"):
      _load(text[:end])
  for _ in range(2000):
    broken = bytearray(text)
    broken[draw.randrange(len(text))] = draw.randrange(256)
    try:
      _load(bytes(broken))
    except ValueError as error:
      assert "a.pt" in str(error)


@pytest.mark.parametrize(
  "end", [b"q\xf0}h\xf0K\x01s", b"K\x01R", b"X\x01\0\0\0a\x93", b")R"]
)
def test_what_holds_one_thing_many_times_is_not_walked_through(end):
  # Pairs of the pair before, 60 times: a walk through all of them would never end.
  pairs = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
  with pytest.raises(ValueError, match=r"a\.pt: its pickle"):
    _load(b"\x80\x02)" + pairs + end + b".")


def test_marks_cost_themselves_alone():
  count = 200_000
  text = b"\x80\x02(" + b"N" * count + b"(t" * count + b"t."
  assert len(_load(text)[0]) == 2 * count


@pytest.mark.parametrize("key", [(1,) * 9, 2**70, ((1,),)])
def test_keys_are_names_and_numbers(key):
  with pytest.raises(ValueError, match="has a key that is not a name, a number or"):
    _load(pickle.dumps({key: 1}, 2))
