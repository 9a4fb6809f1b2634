"""The walk over compiled modules, on modules written by hand."""

import dataclasses

import pytest

from tests.plan.modules import entry
from video_dit.plan import hlo, loops, residuals
from video_dit.plan.chips import CHIPS, Chip
from video_dit.plan.walk import Kernel, Walker

_CHIP = Chip(
  name="test",
  peak=1e9,
  memory=1e9,
  bandwidth=1e9,
  link=1e6,
  clock=1e3,
  attention=((128, 0.5, 0.7), (256, 0.8, 0.9)),
)
_MESH = {"data": 2, "fsdp": 4, "tensor": 1, "context": 1}

# An outer loop of 3 turns (its counter starts at 1) around one of 5 turns by steps of 2.
_NESTED = """HloModule test

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%product (p0: f32[8,16], p1: f32[16,4]) -> f32[8,4] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%inner_body (t: (u32[], f32[8,16], f32[16,4])) -> (u32[], f32[8,16], f32[16,4]) {
  %t = (u32[], f32[8,16]{1,0:T(8,128)S(1)}, f32[16,4]{1,0}) parameter(0)
  %i = u32[] get-tuple-element(%t), index=0
  %two = u32[] constant(2)
  %next = u32[] add(%i, %two)
  %x = f32[8,16]{1,0} get-tuple-element(%t), index=1
  %w = f32[16,4]{1,0} get-tuple-element(%t), index=2
  %fusion.1 = f32[8,4]{1,0} fusion(%x, %w), kind=kOutput, calls=%product, \
backend_config={"window_config":{"estimated_cycles":"10"}}
  ROOT %result = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%next, %x, %w)
}

%inner_condition (t: (u32[], f32[8,16], f32[16,4])) -> pred[] {
  %t = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) parameter(0)
  %limit = u32[] constant(10)
  %i = u32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%outer_body (t: (s32[], f32[8,16], f32[16,4])) -> (s32[], f32[8,16], f32[16,4]) {
  %t = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[8,16]{1,0} get-tuple-element(%t), index=1
  %w = f32[16,4]{1,0} get-tuple-element(%t), index=2
  %zero = u32[] constant(0)
  %first = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%zero, %x, %w)
  %loop.2 = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) while(%first), \
condition=%inner_condition, body=%inner_body
  %y = f32[8,16]{1,0} all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, \
to_apply=%sum
  ROOT %result = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%next, %y, %w)
}

%outer_condition (t: (s32[], f32[8,16], f32[16,4])) -> pred[] {
  %t = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) parameter(0)
  %limit = s32[] constant(3)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%limit, %i), direction=GE
}

ENTRY %main (x: f32[8,16], w: f32[16,4]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %w = f32[16,4]{1,0} parameter(1)
  %one = s32[] constant(1)
  %first = (s32[], /*index=1*/f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%one, %x, %w)
  %loop.1 = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) while(%first), \
condition=%outer_condition, body=%outer_body
  ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop.1), index=1
}
"""


def _walk(text: str, kernel=lambda where, call: None):
  return Walker(hlo.parse(text), _CHIP, _MESH, kernel).entry()


def test_turns_of_nested_loops_multiply():
  cost = _walk(_NESTED)
  assert cost.flops == 3 * 5 * 2 * 8 * 4 * 16
  assert cost.seconds["matrix"] == pytest.approx(3 * 5 * 10 / 1e3)
  found = cost.collectives["fsdp", "all-reduce"]
  assert (found.count, found.bytes) == (3, 3 * 2 * (8 * 16 * 4) * 3 / 4)
  assert found.exposed == found.seconds == pytest.approx(found.bytes / 1e6)
  assert not cost.unknown


def test_what_the_compiler_says_of_a_loop_counts_first():
  said = _NESTED.replace(
    "body=%inner_body", 'body=%inner_body, backend_config={"known_trip_count":{"n":"7"}}'
  )
  assert _walk(said).flops == 3 * 7 * 2 * 8 * 4 * 16


@pytest.mark.parametrize("limit", ["iota()", "constant(0)"])
def test_a_loop_that_says_nothing_or_never_counts_once_and_is_named(limit):
  module = hlo.parse(
    _NESTED.replace("%limit = u32[] constant(10)", f"%limit = u32[] {limit}")
  )
  where = module.computations["outer_body"]
  assert loops.trips(module, where, where["loop.2"]) is None
  cost = Walker(module, _CHIP, _MESH, lambda *_: None).entry()
  assert cost.unknown == ["loop.2"]
  assert cost.flops == 3 * 2 * 8 * 4 * 16


_ADVANCE = """
%advance (p: u32[], q: u32[]) -> u32[] {
  %p = u32[] parameter(0)
  %q = u32[] parameter(1)
  ROOT %sum = u32[] add(%q, %p)
}

%after (p: u32[], x: f32[8,16], w: f32[16,4]) -> (u32[], f32[8,16], f32[16,4]) {
  %p = u32[] parameter(0)
  %x = f32[8,16]{1,0} parameter(1)
  %w = f32[16,4]{1,0} parameter(2)
  %two = u32[] constant(2)
  %sum = u32[] add(%p, %two)
  ROOT %all = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%sum, %x, %w)
}

%inner_body ("""
_INNER_RESULT = (
  "ROOT %result = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%next, %x, %w)"
)


def _inner_turns(counter: str, result: str = _INNER_RESULT) -> int | None:
  """Turns of the inner loop with other lines for its counter and its body's result."""
  text = _NESTED.replace("\n%inner_body (", _ADVANCE, 1)
  text = text.replace("%next = u32[] add(%i, %two)", counter)
  module = hlo.parse(text.replace(_INNER_RESULT, result))
  where = module.computations["outer_body"]
  return loops.trips(module, where, where["loop.2"])


@pytest.mark.parametrize(
  ("counter", "turns"),
  [
    ("%next = u32[] add(%two, %i)", 5),
    ("%next = u32[] fusion(%i, %two), kind=kLoop, calls=%advance", 5),
    ("%once = u32[] add(%i, %two)\n  %next = u32[] add(%once, %two)", 3),
    # What adds no constant is not known.
    ("%next = u32[] multiply(%i, %two)", None),
    ("%next = u32[] add(%i, %i)", None),
    ("%next = u32[] fusion(%i, %i), kind=kLoop, calls=%advance", None),
    ("%next = u32[] subtract(%two, %i)", None),
  ],
)
def test_turns_follow_from_what_is_added_to_the_counter(counter, turns):
  assert _inner_turns(counter) == turns


def test_turns_follow_from_a_fusion_that_is_all_of_the_result():
  head = "ROOT %result = (u32[], f32[8,16]{1,0}, f32[16,4]{1,0}) "
  fused = head + "fusion(%i, %x, %w), kind=kLoop, calls=%after"
  assert _inner_turns("", fused) == 5
  apart = fused.replace("ROOT %result", "%all")
  taken = "%next = u32[] get-tuple-element(%all), index=0"
  assert _inner_turns("", f"{apart}\n  {taken}\n  {_INNER_RESULT}") == 5
  assert _inner_turns("", head + 'custom-call(%i), custom_call_target="x"') is None


def test_work_between_start_and_done_hides_a_collective():
  permute = "source_target_pairs={{0,4},{4,0},{1,5},{5,1},{2,6},{6,2},{3,7},{7,3}}"
  busy = '%busy = f32[1000]{0} copy(%x), backend_config={"window_config":'
  cost = _walk(
    entry(
      "%x = f32[1000]{0} parameter(0)",
      "%s = (f32[1000]{0}, f32[1000]{0}, u32[]) collective-permute-start(%x), " + permute,
      busy + '{"estimated_cycles":"5"}}',
      "ROOT %d = f32[1000]{0} collective-permute-done(%s)",
    )
  )
  found = cost.collectives["data", "permute"]
  # One way over half the links: 4 kB at 0.5 MB/s; 5 ms of it pass meanwhile.
  assert found.seconds == pytest.approx(8e-3)
  assert found.exposed == pytest.approx(3e-3)
  assert cost.total == pytest.approx(8e-3)


@pytest.mark.parametrize(
  "groups, axes",
  [
    ("{{0,4},{1,5},{2,6},{3,7}}", "data"),
    ("[4,2]<=[2,4]T(1,0)", "data"),
    ("[2,4]<=[8]", "fsdp"),
    ("[1,8]<=[8]", "data,fsdp"),
    ("mesh['a'=2,'b'=4] {'b'}", "fsdp"),
    ("mesh['a'=8] {'a':(1)2}", "data"),
    ("mesh['a'=8] {'a':(2)4}", "fsdp"),
  ],
)
def test_groups_are_told_by_mesh_axes(groups, axes):
  cost = _walk(
    entry(
      "%x = f32[1000]{0} parameter(0)",
      f"ROOT %y = f32[1000]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%s",
    )
  )
  assert [key[0] for key in cost.collectives] == [axes]


@pytest.mark.parametrize(
  ("kind", "groups", "sent"),
  [
    # Of 4000 bytes on each device.
    ("all-gather", "{{0,1,2,3},{4,5,6,7}}", 3 * 4000),
    ("reduce-scatter", "{{0,1,2,3},{4,5,6,7}}", 3 * 1000),
    ("all-to-all", "{{0,1,2,3},{4,5,6,7}}", 3 * 1000),
    ("all-to-all", "{{0,1,2,3,4,5,6,7}}", 2 * 7 * 500),
  ],
)
def test_the_bytes_of_a_collective_are_those_that_leave_a_device(kind, groups, sent):
  cost = _walk(
    entry(
      "%x = f32[1000]{0} parameter(0)",
      f"ROOT %y = f32[1000]{{0}} {kind}(%x), replica_groups={groups}, dimensions={{0}}",
    )
  )
  (((_, found_kind), found),) = cost.collectives.items()
  assert (found_kind, found.bytes) == (kind, sent)
  assert cost.total == pytest.approx(sent / 1e6)


_BRANCHES = """HloModule test

%long (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  ROOT %c = f32[1000]{0} copy(%p), \
backend_config={"window_config":{"estimated_cycles":"9"}}
}

%short (p: f32[1000]) -> f32[1000] {
  %p = f32[1000]{0} parameter(0)
  ROOT %c = f32[1000]{0} copy(%p), \
backend_config={"window_config":{"estimated_cycles":"2"}}
}

ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %n = s32[] parameter(1)
  ROOT %y = f32[1000]{0} LINE
}
"""


@pytest.mark.parametrize(
  ("line", "seconds"),
  [
    ("conditional(%n, %x, %x), branch_computations={%short, %long}", 9e-3),
    ("call(%x), to_apply=%short", 2e-3),
  ],
)
def test_the_longest_branch_and_what_is_called_count(line, seconds):
  assert _walk(_BRANCHES.replace("LINE", line)).total == pytest.approx(seconds)


def test_a_transfer_to_the_host_is_of_its_own_link():
  cost = _walk(
    entry(
      "%x = f32[1000]{0} parameter(0)",
      "%s = (f32[1000]{0:S(5)}, f32[1000]{0}, u32[]) copy-start(%x)",
      "ROOT %d = f32[1000]{0:S(5)} copy-done(%s)",
    )
  )
  assert cost.seconds == {"host": pytest.approx(4000 / _CHIP.host_link)}


_PARTS = """HloModule test

%taken (p: f32[8,100], i: s32[]) -> f32[1,100] {{
  %p = f32[8,100]{{1,0{host}}} parameter(0)
  %i = s32[] parameter(1)
  ROOT %r = f32[1,100]{{1,0}} dynamic-slice(%p, %i, %i), dynamic_slice_sizes={{1,100}}
}}

%put (p: f32[8,100], u: f32[1,100], i: s32[]) -> f32[8,100] {{
  %p = f32[8,100]{{1,0{host}}} parameter(0)
  %u = f32[1,100]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  ROOT %r = f32[8,100]{{1,0{host}}} dynamic-update-slice(%p, %u, %i, %i)
}}

ENTRY %main (x: f32[8,100], u: f32[1,100], i: s32[]) -> f32[1,100] {{
  %x = f32[8,100]{{1,0{host}}} parameter(0)
  %u = f32[1,100]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  %s = {start}
  ROOT %d = f32[1,100]{{1,0}} {done}(%s)
}}
"""
_TAKEN = "((f32[8,100]{1,0HOST}, s32[], s32[]), f32[1,100]{1,0}, u32[]{:S(2)}) "
_PUT = (
  "((f32[8,100]{1,0HOST}, f32[1,100]{1,0}, s32[], s32[]), f32[8,100]{1,0HOST}, u32[]) "
)


@pytest.mark.parametrize("host", ["", ":S(5)"])
@pytest.mark.parametrize(
  "start",
  [
    _TAKEN + "dynamic-slice-start(%x, %i, %i), dynamic_slice_sizes={1,100}",
    "((f32[8,100]{1,0HOST}), f32[1,100]{1,0}, u32[]) slice-start(%x), slice={[0:1]}",
    _PUT + "dynamic-update-slice-start(%x, %u, %i, %i)",
    _TAKEN + "async-start(%x, %i), calls=%taken",
    _PUT + "async-start(%x, %u, %i), calls=%put",
  ],
  ids=["dynamic slice", "slice", "update", "generic slice", "generic update"],
)
def test_a_transfer_of_a_part_of_a_stack_moves_that_part(start, host):
  done = start.split("(%")[0].split()[-1].replace("-start", "-done")
  cost = _walk(_PARTS.format(start=start.replace("HOST", host), done=done, host=host))
  kind, rate = ("host", _CHIP.host_link) if host else ("copy", _CHIP.bandwidth)
  assert cost.seconds == {kind: pytest.approx(400 / rate)}


def test_what_was_begun_is_waited_for_at_the_end():
  permute = "source_target_pairs={{0,4},{4,0},{1,5},{5,1},{2,6},{6,2},{3,7},{7,3}}"
  cost = _walk(
    entry(
      "%x = f32[1000]{0} parameter(0)",
      "ROOT %s = (f32[1000]{0}, f32[1000]{0}, u32[]) collective-permute-start(%x), "
      + permute,
    )
  )
  assert cost.total == pytest.approx(8e-3)


def test_kernels_count_by_their_share_of_the_peak():
  call = entry(
    "%x = f32[1000]{0} parameter(0)",
    'ROOT %y.3 = f32[1000]{0} custom-call(%x), custom_call_target="tpu_custom_call"',
  )
  for head_size, seconds in ((64, 2.0), (128, 2.0), (192, 2.0), (256, 1.25), (512, 1.25)):
    cost = _walk(call, lambda *_, k=Kernel(1e9, False, head_size): k)
    assert (cost.seconds["kernel"], cost.kernel_flops) == (seconds, 1e9)
  cost = _walk(call, lambda where, call: Kernel(1.8e9, backward=True, head_size=256))
  assert cost.seconds["kernel"] == pytest.approx(2.0)
  assert _walk(call).unknown == ["y.3"]


def test_kernels_count_by_their_pace_and_by_what_they_read():
  call = entry(
    "%x = f32[1000]{0} parameter(0)",
    'ROOT %y.3 = f32[1000]{0} custom-call(%x), custom_call_target="tpu_custom_call"',
  )
  cost = _walk(call, lambda *_: Kernel(1e9, False, 128, pace=0.25))
  assert cost.seconds["kernel"] == pytest.approx(8.0)
  cost = _walk(call, lambda *_: Kernel(1e3, False, 128))
  assert cost.seconds["kernel"] == pytest.approx(8000 / _CHIP.bandwidth)
  assert cost.bytes == 8000


# A chip of whose products the compiler has no estimate: half of its peak is reached.
_PLAIN = dataclasses.replace(_CHIP, clock=0.0, matrix=0.5)
_GPU = dataclasses.replace(_PLAIN, network=1e5)


def _walk_on(chip: Chip, text: str):
  return Walker(hlo.parse(text), chip, _MESH, lambda *_: None).entry()


def _product(dtype: str) -> str:
  return entry(
    f"%x = {dtype}[100,200]{{1,0}} parameter(0)",
    f"%w = {dtype}[200,50]{{1,0}} parameter(1)",
    f"ROOT %y = {dtype}[100,50]{{1,0}} dot(%x, %w), lhs_contracting_dims={{1}},"
    " rhs_contracting_dims={0}",
  )


@pytest.mark.parametrize(
  ("chip", "dtype", "share", "size"),
  [
    (_PLAIN, "bf16", 0.5, 2),
    (_PLAIN, "f32", 0.5, 4),
    (_GPU, "bf16", 0.5, 2),
    (_GPU, "f32", 0.25, 4),  # as TensorFloat-32
    # With a clock the compiler's estimates are of the peak itself.
    (dataclasses.replace(_PLAIN, clock=1e3), "bf16", 1.0, 2),
  ],
)
def test_products_without_an_estimate_reach_a_share_of_the_peak(chip, dtype, share, size):
  cost = _walk_on(chip, _product(dtype))
  assert cost.flops == 2 * 100 * 200 * 50
  assert cost.bytes == size * (100 * 200 + 200 * 50 + 100 * 50)
  assert cost.seconds == {"matrix": pytest.approx(cost.flops / (share * chip.peak))}


def test_products_of_whole_float32_take_longer_on_a_gpu():
  text = _product("f32")
  asked = "operand_precision={highest,highest}, rhs_contracting"
  whole = text.replace("rhs_contracting", asked)
  assert whole != text
  times = [_walk_on(_GPU, x).seconds["matrix"] for x in (_product("bf16"), whole)]
  assert times[1] == pytest.approx(16 * times[0])


def test_products_that_wait_for_memory_take_as_long_as_it():
  cost = _walk_on(dataclasses.replace(_PLAIN, bandwidth=1e6), _product("bf16"))
  assert cost.seconds == {"matrix": pytest.approx(2 * 35_000 / 1e6)}


_NESTED_FUSIONS = """HloModule test

%product (p0: f32[8,16], p1: f32[16,4]) -> f32[8,4] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[16,4]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

%outer (p0: f32[8,16], p1: f32[16,4]) -> f32[8,4] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = f32[16,4]{1,0} parameter(1)
  %inner = f32[8,4]{1,0} fusion(%p0, %p1), kind=kOutput, calls=%product
  ROOT %twice = f32[8,4]{1,0} add(%inner, %inner)
}

ENTRY %main (x: f32[8,16], w: f32[16,4]) -> f32[8,4] {
  %x = f32[8,16]{1,0} parameter(0)
  %w = f32[16,4]{1,0} parameter(1)
  ROOT %y = f32[8,4]{1,0} fusion(%x, %w), kind=kOutput, calls=%outer
}
"""


def test_products_in_fusions_in_fusions_count():
  chip = dataclasses.replace(_GPU, bandwidth=1e12)
  cost = _walk_on(chip, _NESTED_FUSIONS)
  assert cost.flops == 2 * 8 * 4 * 16
  assert cost.bytes == 4 * (8 * 16 + 16 * 4 + 8 * 4)
  assert cost.seconds == {"matrix": pytest.approx(cost.flops / (0.25 * chip.peak))}


@pytest.mark.parametrize(
  ("line", "moved"),
  [
    ("f32[8,100]{1,0} add(%x, %x)", 3 * 3200),
    ("f32[8,100]{1,0:S(1)} copy(%x)", 3200),  # into memory that is not the main one
    # What is taken is read and written, and what is put likewise.
    ("f32[2,100]{1,0} slice(%x), slice={[1:3], [0:100]}", 2 * 800),
    ("f32[1,100]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,100}", 2 * 400),
    ("f32[8,100]{1,0} dynamic-update-slice(%x, %u, %i, %i)", 2 * 400),
  ],
)
def test_an_operation_takes_as_long_as_what_it_reads_and_writes(line, moved):
  cost = _walk_on(
    _PLAIN,
    entry(
      "%x = f32[8,100]{1,0} parameter(0)",
      "%u = f32[1,100]{1,0} parameter(1)",
      "%i = s32[] parameter(2)",
      f"ROOT %y = {line}",
    ),
  )
  assert cost.bytes == moved and cost.flops == 0
  assert cost.seconds == {"vector": pytest.approx(moved / _PLAIN.bandwidth)}


_OVERLAPPING = """HloModule test

%both (p: f32[100]) -> f32[80] {
  %p = f32[100]{0} parameter(0)
  %a = f32[80]{0} slice(%p), slice={[0:80]}
  %b = f32[80]{0} slice(%p), slice={[20:100]}
  ROOT %c = f32[80]{0} add(%a, %b)
}

ENTRY %main (x: f32[100]) -> f32[80] {
  %x = f32[100]{0} parameter(0)
  ROOT %y = f32[80]{0} fusion(%x), kind=kLoop, calls=%both
}
"""


def test_slices_of_one_operand_are_no_more_than_it():
  assert _walk_on(_PLAIN, _OVERLAPPING).bytes == 400 + 320
  apart = _OVERLAPPING.replace("80", "30").replace("[20:100]", "[20:50]")
  assert _walk_on(_PLAIN, apart).bytes == 2 * 120 + 120


_STACKS = """HloModule test

%take (p: f32[8,100], i: s32[]) -> f32[1,100] {{
  %p = f32[8,100]{{1,0}} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[8,1,100]{{2,1,0}} bitcast(%p)
  %zero = s32[] constant(0)
  %s = f32[1,1,100]{{2,1,0}} dynamic-slice(%b, %i, %zero, %zero), \
dynamic_slice_sizes={{1,1,100}}
  ROOT %r = f32[1,100]{{1,0}} bitcast(%s)
}}

%put (p: f32[8,100], u: f32[1,100], i: s32[]) -> f32[8,100] {{
  %p = f32[8,100]{{1,0}} parameter(0)
  %u = f32[1,100]{{1,0}} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %r = f32[8,100]{{1,0}} dynamic-update-slice(%p, %u, %i, %zero)
}}

ENTRY %main (x: f32[8,100], i: s32[]) -> f32[8,100] {{
  %x = f32[8,100]{{1,0}} parameter(0)
  %i = s32[] parameter(1)
  {part}
  ROOT %y = f32[8,100]{{1,0}} fusion(%x, %part, %i), kind=kLoop, calls=%put
}}
"""


@pytest.mark.parametrize(
  "part",
  [
    "%part = f32[1,100]{1,0} fusion(%x, %i), kind=kLoop, calls=%take",
    "%go = ((f32[8,100]{1,0}, s32[]), f32[1,100]{1,0}, u32[]) fusion-start(%x, %i),"
    " kind=kLoop, calls=%take\n  %part = f32[1,100]{1,0} fusion-done(%go)",
  ],
  ids=["at once", "begun early"],
)
def test_of_stacks_the_parts_count_that_are_taken_and_put(part):
  chip = dataclasses.replace(_CHIP, clock=0.0)
  walker = Walker(hlo.parse(_STACKS.format(part=part)), chip, _MESH, lambda *_: None)
  # A row is read and written, then read and written again; and the number of it, read.
  expected = (4 * 400 + (4 if "start" in part else 0) + 4) / chip.bandwidth
  assert walker.entry().total == pytest.approx(expected, rel=0.01)


def test_groups_of_several_hosts_go_over_their_network():
  chip = dataclasses.replace(_CHIP, per_host=4, network=1e5)

  def seconds(groups):
    text = entry(
      "%x = f32[1000]{0} parameter(0)",
      f"ROOT %y = f32[1000]{{0}} all-reduce(%x), replica_groups={groups}, to_apply=%s",
    )
    return Walker(hlo.parse(text), chip, _MESH, lambda *_: None).entry().total

  assert seconds("{{0,1,2,3},{4,5,6,7}}") == pytest.approx(2 * 4000 * 3 / 4 / 1e6)
  assert seconds("{{0,4},{1,5},{2,6},{3,7}}") == pytest.approx(2 * 4000 / 2 / 1e5)


def test_sizes_in_memory_are_filled_up_to_tiles():
  text = "%x = bf16[2,30,144]{2,0,1:T(8,128)(2,1)S(1)} parameter(0)"
  found = hlo.parse(entry(text)).computations["main"]["x"].arrays[0]
  assert (found.bytes, found.padded_bytes, found.space) == (
    2 * 30 * 144 * 2,
    30 * 8 * 256 * 2,
    1,
  )


def test_stacks_that_one_loop_leaves_for_another_are_activations():
  text = _NESTED.replace(
    "ROOT %out = f32[8,16]{1,0} get-tuple-element(%loop.1), index=1",
    "%left = f32[8,16]{1,0} get-tuple-element(%loop.1), index=1\n"
    "  %then = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) tuple(%one, %left, %w)\n"
    "  ROOT %loop.3 = (s32[], f32[8,16]{1,0}, f32[16,4]{1,0}) while(%then),"
    " condition=%outer_condition, body=%outer_body",
  ).replace("%limit = s32[] constant(3)", "%limit = s32[] constant(4)")
  assert residuals.saved_bytes(hlo.parse(text)) == 8 * 16 * 4


def test_every_chip_has_its_figures_and_tpus_alone_a_clock():
  for chip in CHIPS.values():
    assert chip.memory > 1e10 and chip.peak > 1e14
    assert chip.host_link < chip.link < chip.bandwidth
    assert (chip.clock > 1e9) != (chip.network > 0)
    shares = [chip.matrix, *(share for _, *both in chip.attention for share in both)]
    assert all(0 < share < 1 for share in shares)
