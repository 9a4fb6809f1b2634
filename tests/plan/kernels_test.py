"""What attention kernels do, read from their calls in a compiled module."""

import pytest

from video_dit.plan import chips, hlo
from video_dit.plan.kernels import Kernels
from video_dit.plan.mix import Mix

_CALL = """HloModule test

ENTRY %main (first: s32[1,{own}]) -> bf16[1,2,{length},128] {{
  %first = s32[1,{own}]{{1,0}} parameter(0)
  %last = s32[1,{own}]{{1,0}} parameter(1)
  %whole = s32[1,{own}]{{1,0}} parameter(2)
  %others = s32[1,{theirs}]{{1,0}} parameter(3)
  %q = bf16[1,2,{length},128]{{3,2,1,0}} parameter(4)
  %k = bf16[1,2,{keys},128]{{3,2,1,0}} parameter(5)
  ROOT %packed_attention_{name}.1 = bf16[1,2,{length},128]{{3,2,1,0}} \
custom-call(%first, %last, %whole, %others, %q, %k, %k), \
custom_call_target="tpu_custom_call", \
metadata={{op_name="jit(step)/{scope}/packed_attention_{name}/pallas_call"}}
}}
"""
_PAIR = 2 * 2 * 128  # FLOPs of one query and key in one product, of both heads


def _kernel(name: str, mix: Mix, *, scope="self_attention", **sizes: int):
  text = _CALL.format(name=name, scope=scope, **sizes)
  (where,) = hlo.parse(text).computations.values()
  return Kernels(mix)(where, where[f"packed_attention_{name}.1"])


@pytest.mark.parametrize(
  ("num_blocks", "pairs", "pace"),
  [
    # Clips of 1,536 and 2,560: two runs of whole blocks, and one block that holds both.
    (8, 1536**2 + 2560**2, 1.0),
    (16, 1536**2 + 2560**2, 0.72),
    (4, 1024 * 2048 + 1024 * 4096 + 2048 * 3072, 1.0),
  ],
)
def test_visited_pairs_and_pace_follow_from_the_blocks(num_blocks, pairs, pace):
  mix = Mix((1536, 2560), (20, 20), 4096)
  sizes = {"own": num_blocks, "theirs": num_blocks, "length": 4096, "keys": 4096}
  found = _kernel("forward", mix, **sizes)
  assert found.flops == pytest.approx(2 * _PAIR * pairs)
  assert (found.backward, found.head_size, found.pace) == (False, 128, pace)
  back = _kernel("backward", mix, **sizes)
  assert back.flops == pytest.approx(5 * _PAIR * pairs) and back.backward


def test_a_text_is_visited_by_its_own_blocks():
  mix, of_text = Mix((4096,), (100,), 4096), {"scope": "cross_attention"}
  found = _kernel("forward", mix, **of_text, own=8, theirs=8, length=4096, keys=1024)
  assert found.flops == pytest.approx(2 * _PAIR * 4096 * 128)
  back = _kernel("backward", mix, **of_text, own=8, theirs=8, length=1024, keys=4096)
  assert back.flops == pytest.approx(5 * _PAIR * 4096 * 128)
  assert (found.pace, back.pace) == (0.69, 0.82)  # by the text's blocks of 128


def test_a_text_as_long_as_the_queries_is_told_from_the_row_itself():
  mix = Mix((4096,), (100,), 4096)
  for length in (4096, 1024):  # a whole row, and a device's part of one
    sizes = {"length": length, "keys": length, "own": length // 512}
    sizes["theirs"] = length // 128
    own = _kernel("forward", mix, **sizes)
    assert own.flops == pytest.approx(2 * _PAIR * length**2)
    text = _kernel("forward", mix, scope="cross_attention", **sizes)
    assert text.flops == pytest.approx(2 * _PAIR * length * 128)
    assert _kernel("forward", mix, scope="elsewhere", **sizes) is None


_TRITON = """HloModule test

ENTRY %main (runs: s32[1,{blocks},4]) -> bf16[1,{own},2,128] {{
  %runs = s32[1,{blocks},4]{{2,1,0}} parameter(0)
  %x = bf16[1,{own},2,128]{{3,2,1,0}} parameter(1)
  %y = bf16[1,{other},2,128]{{3,2,1,0}} parameter(2)
  %n = s32[1,{own}]{{1,0}} parameter(3)
  ROOT %pallas_call.1 = bf16[1,{own},2,128]{{3,2,1,0}} custom-call(%runs, %x, %y, %n), \
custom_call_target="__gpu$xla.gpu.triton", \
metadata={{op_name="jit(step)/{scope}/packed_attention_{name}/pallas_call"}}
}}
"""


@pytest.mark.parametrize(
  ("name", "products", "backward"),
  [("forward", 2, False), ("backward_queries", 3, True), ("backward_keys", 4, True)],
)
def test_kernels_of_a_gpu_are_read_too(name, products, backward):
  def kernel(own, other, mix, scope="self_attention"):
    sizes = {"own": own, "other": other, "blocks": own // 128}
    text = _TRITON.format(name=name, scope=scope, **sizes)
    (where,) = hlo.parse(text).computations.values()
    return Kernels(mix)(where, where["pallas_call.1"])

  found = kernel(4096, 4096, Mix((1536, 2560), (20, 20), 4096))
  assert found.flops == pytest.approx(products * _PAIR * (1536**2 + 2560**2))
  assert (found.backward, found.head_size, found.pace) == (backward, 128, 1.0)
  # A row and its text of 100 tokens, in a block of 128 or two of 64.
  sides = (1024, 4096) if name == "backward_keys" else (4096, 1024)
  text = kernel(*sides, Mix((4096,), (100,), 4096), "cross_attention")
  assert text.flops == pytest.approx(products * _PAIR * 4096 * 128)


def test_other_kernels_are_not_known():
  mix = Mix((4096,), (20,), 4096)
  assert _kernel("sideways", mix, own=8, theirs=8, length=4096, keys=4096) is None


def test_heads_that_leave_matrix_units_empty_are_told():
  v5p, v6e = chips.CHIPS["v5p"], chips.CHIPS["v6e"]
  assert not v5p.note_on_heads(1152, 9) and not v6e.note_on_heads(1280, 5)
  told = v6e.note_on_heads(1152, 9)
  assert "heads of 128 leave part of v6e's matrix units empty" in told
  assert told.endswith("--config.dit.width=1280 --config.dit.heads=5")
  told = v5p.note_on_heads(1152, 16)
  assert told.endswith("--config.dit.width=1152 --config.dit.heads=9")
