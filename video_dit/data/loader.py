"""From a data set to batches on the devices; the position in the data is the step.

Batches are a `grain.MapDataset` indexed by step, so that a run starts anywhere at once,
on any number of processes, and sees the same segments. Threads read ahead; no process is
forked. A record that cannot be used is named in the log and in `Dataset.damaged`, and its
place in the row weighs nothing. Where several processes make the row, which must be the
same on all of them, it ends the run: another process may have read it.
"""

import collections
from collections.abc import Iterator
import dataclasses
import sys
from typing import Any

from absl import logging
import grain
import jax
import numpy as np

from video_dit import config as config_lib
from video_dit.data import assemble, batch, reader, schema, windows
from video_dit.data import pieces as pieces_lib
from video_dit.data import steps as steps_lib
from video_dit.data import visits as visits_lib
from video_dit.parallel import hosts


def steps(
  dataset: reader.Dataset,
  config: config_lib.Config,
  *,
  shuffle: bool = True,
) -> steps_lib.Steps:
  """Plans which clips make which step; reads no record.

  Args:
    dataset: of latents.
    config: `data`, `dit` and `seed` are read.
    shuffle: or keep the records' order, with each once whatever its set's weight.

  Raises:
    ValueError: the set is not of latents, a clip or its caption fits no row, the empty
      caption's encoding cannot be used, or as `visits`.
  """
  reader.check(dataset.metadata)
  index, empty = dataset.index, dataset.metadata.empty
  pieces = pieces_lib.cut(
    index.t,
    index.h,
    index.w,
    index.text_tokens,
    data=config.data,
    patch=config.dit.patch,
    empty_tokens=0 if empty is None else len(empty),
    name=dataset.clip,
  )
  if empty is None and config.data.caption_dropout:
    raise ValueError(
      f"{dataset.metadata.folder}: no encoding of the empty caption ({schema.EMPTY}), so"
      f" data.caption_dropout={config.data.caption_dropout} has nothing to put in a"
      " caption's place. Preprocess again, or set data.caption_dropout=0."
    )
  if empty is not None and not _finite(empty):
    raise ValueError(
      f"{dataset.metadata.folder}: the encoding of the empty caption ({schema.EMPTY})"
      " is not finite. Preprocess again with another text encoder."
    )
  chosen = visits(dataset, config) if shuffle else None
  return steps_lib.Steps(pieces, config.data, config.seed, shuffle=shuffle, visits=chosen)


def visits(
  dataset: reader.Dataset, config: config_lib.Config
) -> visits_lib.Visits | None:
  """How often epochs visit each record; None where each comes once.

  Args:
    dataset: of any kind.
    config: `data.weights` and `seed` are read.

  Raises:
    ValueError: there are more weights or fewer than sets, or as `Visits`.
  """
  weights = config.data.weights
  if not weights:
    return None
  if len(weights) != len(dataset.sets):
    raise ValueError(
      f"config.data.weights={weights}: {len(weights)} weights for {len(dataset.sets)}"
      " data sets. Give one for each folder of data.path, or none."
    )
  return visits_lib.Visits(dataset.set_of(), weights, config.seed)


@dataclasses.dataclass(frozen=True)
class Share:
  """The rows of each step that one process makes.

  Several processes make the same row where its tokens, or what is done to them, are
  spread over devices of them all.

  Attributes:
    rows: their numbers in the step, in order.
    total: rows of a step.
    shared: those of them that other processes make, too.
  """

  rows: tuple[int, ...]
  total: int
  shared: frozenset[int] = frozenset()

  @classmethod
  def of(
    cls, sharding: jax.sharding.Sharding, total: int, process: int | None = None
  ) -> "Share":
    """The share of a process.

    Args:
      sharding: of a step's rows over the devices of all processes.
      total: rows of a step.
      process: its number; None is this one.
    """
    process = jax.process_index() if process is None else process
    places: Any = sharding.devices_indices_map((total,))
    made: dict[int, set[int]] = {}
    for device, (place,) in places.items():
      made.setdefault(device.process_index, set()).update(range(total)[place])
    mine = made.pop(process)
    return cls(tuple(sorted(mine)), total, frozenset(mine & set().union(*made.values())))

  @classmethod
  def whole(cls, total: int) -> "Share":
    """All rows, made by one process."""
    return cls(tuple(range(total)), total)


class Batches:
  """The batch of each step, host-local, by random access."""

  def __init__(
    self,
    dataset: reader.Dataset,
    config: config_lib.Config,
    steps: steps_lib.Steps,
    *,
    share: Share | None = None,
    num: int = sys.maxsize,
    one_epoch: bool = False,
  ):
    """Reads nothing yet.

    Args:
      dataset: of latents.
      config: `data`, `dit` and `seed` are read.
      steps: the plan.
      share: what is made here; None makes whole steps.
      num: steps there are.
      one_epoch: leave rows of later epochs empty.
    """
    self._dataset = dataset
    self._config = config
    self._steps = steps
    self._share = share or Share.whole(config.data.rows)
    self._num = num
    self._one_epoch = one_epoch

  def __len__(self) -> int:
    return self._num

  def __getitem__(self, step: int) -> batch.Batch:
    planned = self._steps.rows_for_step(step)
    rows = [
      [] if planned[i].epoch and self._one_epoch else self._segments(planned[i], step, i)
      for i in self._share.rows
    ]
    config = self._config
    return assemble.assemble(
      rows,
      self._dataset.metadata,
      config.data,
      config.dit,
      seed=config.seed,
      step=step,
    )

  def _segments(
    self, planned: steps_lib.Row, step: int, row: int
  ) -> Iterator[assemble.Segment | assemble.Gap]:
    pieces = self._steps.pieces
    for i, copy in zip(planned.pieces, planned.copies, strict=True):
      record = _read_for_row(self._dataset, int(pieces.clip[i]), self._share, step, row)
      if record is None:
        yield assemble.Gap(int(pieces.tokens[i]))
      else:
        yield assemble.Segment(
          record,
          int(pieces.first[i]),
          int(pieces.count[i]),
          int(pieces.run[i]),
          int(copy),
        )


def loader(
  dataset: reader.Dataset,
  config: config_lib.Config,
  *,
  start_step: int = 0,
  share: Share | None = None,
  plan: steps_lib.Steps | None = None,
) -> grain.DatasetIterator[batch.Batch]:
  """Endless training batches from `start_step` on.

  Args:
    dataset: of latents.
    config: `data`, `dit` and `seed` are read.
    start_step: the first batch's step.
    share: what is made here; None makes whole steps.
    plan: as `steps` makes it, where the caller has it already.

  Returns:
    An iterator of host-local batches; its state is the next step.

  Raises:
    ValueError: as `steps`.
  """
  batches = Batches(dataset, config, plan or steps(dataset, config), share=share)
  return _iterate(batches, config.data, start_step)


def held_out(
  dataset: reader.Dataset,
  config: config_lib.Config,
  *,
  share: Share | None = None,
) -> Batches:
  """All clips once, in their own order, with their captions; by index of the batch.

  Rows that the last batch has no clips for are padding. `share` is as `Batches`'.
  """
  config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, caption_dropout=0.0)
  )
  plan = steps(dataset, config, shuffle=False)
  return Batches(
    dataset,
    config,
    plan,
    share=share,
    num=-(-len(plan.plan(0)) // config.data.rows),
    one_epoch=True,
  )


class _Windows:
  """The windows of each step, host-local, by random access."""

  def __init__(
    self,
    dataset: reader.Dataset,
    config: config_lib.Config,
    share: Share | None,
  ):
    self._dataset = dataset
    self._config = config
    self._order = windows.Order(
      len(dataset), config.data.rows, config.seed, visits(dataset, config)
    )
    self._share = share or Share.whole(config.data.rows)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> batch.Windows:
    config, numbers = self._config, self._order(step)
    records = [self._record(numbers[i:] + numbers[:i], step, i) for i in self._share.rows]
    return windows.stack(records, config.data, seed=config.seed, step=step)

  def _record(self, numbers: list[int], step: int, row: int) -> Any:
    """The first usable record: a window cannot be empty, so the next replaces it."""
    for number in numbers:
      record = _read_for_row(self._dataset, number, self._share, step, row)
      if record is not None:
        return record
    raise reader.RecordError(self._dataset.damaged[numbers[0]])


def windows_loader(
  dataset: reader.Dataset,
  config: config_lib.Config,
  *,
  start_step: int = 0,
  share: Share | None = None,
) -> grain.DatasetIterator[batch.Windows]:
  """Endless windows of pixels; arguments and errors as `loader`'s."""
  reader.check(dataset.metadata, kind="pixels")
  return _iterate(_Windows(dataset, config, share), config.data, start_step)


def prefetch_to_device(
  iterator: Iterator[Any],
  sharding: Any,
  size: int,
  share: Share | None = None,
) -> Iterator[Any]:
  """Keeps `size` batches in flight to the devices.

  Args:
    iterator: of host-local batches (pytrees of NumPy arrays, rows first).
    sharding: of the global batch: one for all arrays, or a pytree of them.
    size: batches in flight, besides the one handed out.
    share: what the iterator makes, at least all that this process's devices hold; None:
      whole steps.

  Yields:
    Batches of global `jax.Array`s.
  """
  one = isinstance(sharding, jax.sharding.Sharding)

  def put(host: Any) -> Any:
    wanted = jax.tree.map(lambda _: sharding, host) if one else sharding
    # Over several hosts JAX does not count this among the explicit transfers.
    with jax.transfer_guard_host_to_device("allow"):
      return jax.tree.map(lambda array, s: _place(array, s, share), host, wanted)

  ready: collections.deque[Any] = collections.deque()
  for host in iterator:
    ready.append(put(host))
    if len(ready) > size:
      yield ready.popleft()
  yield from ready


def _place(
  array: np.ndarray, sharding: jax.sharding.Sharding, share: Share | None
) -> jax.Array:
  """A host's rows as a part of the global array."""
  if share is None or sharding.is_fully_addressable:
    return hosts.place(array, sharding)

  def part(index: Any) -> np.ndarray:
    first, last, _ = index[0].indices(share.total)
    here = slice(*np.searchsorted(share.rows, (first, last)))
    return array[(here, *index[1:])]

  return jax.make_array_from_callback((share.total, *array.shape[1:]), sharding, part)


def read(dataset: reader.Dataset, i: int) -> Any:
  """Record i, or None where it cannot be used; then `dataset.damaged[i]` says why.

  Raises:
    RecordError: over a hundredth of the set (and over 8 records) cannot be used.
  """
  if i in dataset.damaged:
    return None
  try:
    record = dataset[i]
    if isinstance(record, schema.LatentRecord):
      for name, array in (
        ("latents", record.latent),
        ("text", record.text),
        ("text", record.more_text),
      ):
        if array is not None and not _finite(array):
          raise reader.RecordError(f"{dataset.clip(i)} has {name} that is not finite.")
    return record
  except reader.RecordError as error:
    dataset.damaged[i] = str(error)
    logging.error("%s It is left out.", error)
    if len(dataset.damaged) > max(8, len(dataset) // 100):
      raise reader.RecordError(
        f"{len(dataset.damaged)} of {len(dataset)} records cannot be used, the last"
        f" because: {error}"
      ) from error
    return None


def _read_for_row(
  dataset: reader.Dataset, i: int, share: Share, step: int, row: int
) -> Any:
  """`read`, but also refuses to leave a record out of a row of several processes."""
  record = read(dataset, i)
  if record is None and row in share.shared:
    raise reader.RecordError(
      f"{dataset.damaged[i]} It belongs to row {row} of step {step}, which several"
      " processes make and which must be the same on all of them, so it cannot be left"
      " out here. If `preprocess --verify` finds no fault, run the same command again."
    )
  return record


def _finite(array: np.ndarray) -> bool:
  """Whether no float16 has all exponent bits set; on bits, which is faster."""
  return not (array.view(np.uint16) & 0x7C00 == 0x7C00).any()


def _iterate(source: Any, data: config_lib.Data, start: int) -> grain.DatasetIterator:
  options = grain.ReadOptions(
    num_threads=data.threads, prefetch_buffer_size=max(data.threads, data.prefetch)
  )
  iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
  grain.experimental.set_next_index(iterator, start)
  return iterator
