"""FLOPs of single instructions: convolutions, and calls of a GPU's libraries."""

import pytest

from tests.plan.modules import entry
from video_dit.plan import hlo, work


@pytest.mark.parametrize(
  "line, flops",
  [
    # A 3x3 convolution of 2 images, padded, 4 to 8 channels: the corners see 4 taps.
    (
      "f32[2,5,5,8]{3,2,1,0} convolution(%a, %b), window={size=3x3 pad=1_1x1_1},"
      " dim_labels=b01f_01io->b01f",
      2 * 2 * 8 * 4 * (3 * 3 + 2 * 2) ** 2,
    ),
    # Of four images, each half makes half of the channels (a gradient of groups of taps).
    (
      "f32[2,5,5,8]{3,2,1,0} convolution(%g, %b), window={size=3x3 pad=1_1x1_1},"
      " dim_labels=b01f_01io->b01f, batch_group_count=2",
      2 * 2 * 8 * 4 * (3 * 3 + 2 * 2) ** 2,
    ),
    # A product of 6 pairs written as a convolution that dilates: 6 taps, one meets.
    (
      "f32[6,7,8]{2,1,0} convolution(%c, %d), window={size=6 stride=5 pad=0_0"
      " lhs_dilate=6}, dim_labels=0bf_0io->0bf",
      2 * 6 * 7 * 8 * 9,
    ),
  ],
)
def test_convolutions_count_what_meets(line, flops):
  module = hlo.parse(
    entry(
      "%a = f32[2,5,5,4]{3,2,1,0} parameter(0)",
      "%b = f32[3,3,4,8]{3,2,1,0} parameter(1)",
      "%c = f32[6,7,9]{2,1,0} parameter(2)",
      "%d = f32[6,9,8]{2,1,0} parameter(3)",
      "%g = f32[4,5,5,4]{3,2,1,0} parameter(4)",
      f"ROOT %y = {line}",
    )
  )
  where = module.computations["main"]
  assert work.flops(where, where["y"]) == flops


@pytest.mark.parametrize(
  "line",
  [
    # What a GPU's library does with a 3x3 convolution of 2 images, 4 to 8 channels: the
    # convolution, and the gradients of its input and its taps.
    "(f32[2,5,5,8]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), {},"
    ' custom_call_target="__cudnn$convBiasActivationForward"',
    "(f32[2,5,5,4]{3,2,1,0}, u8[0]{0}) custom-call(%e, %b), {},"
    ' custom_call_target="__cudnn$convBackwardInput"',
    "(f32[3,3,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%a, %e), {},"
    ' custom_call_target="__cudnn$convBackwardFilter"',
  ],
)
def test_a_librarys_convolutions_count_as_their_forward_pass(line):
  window = "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f"
  module = hlo.parse(
    entry(
      "%a = f32[2,5,5,4]{3,2,1,0} parameter(0)",
      "%b = f32[3,3,4,8]{3,2,1,0} parameter(1)",
      "%e = f32[2,5,5,8]{3,2,1,0} parameter(2)",
      f"ROOT %y = {line.replace('{},', window + ',')}",
    )
  )
  where = module.computations["main"]
  assert work.flops(where, where["y"]) == 2 * 2 * 8 * 4 * (3 * 3 + 2 * 2) ** 2


def test_a_librarys_matrix_product_counts_and_any_other_call_does_not():
  numbers = '{"lhs_contracting_dimensions":["1"]}'
  said = f'{{"gemm_backend_config":{{"dot_dimension_numbers":{numbers}}}}}'
  module = hlo.parse(
    entry(
      "%a = bf16[6,9]{1,0} parameter(0)",
      "%b = bf16[9,7]{1,0} parameter(1)",
      "%y = (bf16[6,7]{1,0}, s8[4]{0}) custom-call(%a, %b),"
      f' custom_call_target="__cublas$gemm", backend_config={said}',
      'ROOT %z = bf16[6,9]{1,0} custom-call(%a), custom_call_target="__other"',
    )
  )
  where = module.computations["main"]
  assert work.flops(where, where["y"]) == 2 * 6 * 7 * 9
  assert work.flops(where, where["z"]) == 0
