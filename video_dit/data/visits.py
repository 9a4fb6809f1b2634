"""How often an epoch visits each record, where data sets have weights.

With weight w a record is visited `floor((e + 1) w + u) - floor(e w + u)` times in epoch
e. u is its place, between 0 and 1, in a shuffle of its set. So its visits are spread
evenly over the epochs, and so are an epoch's over the set: a weight of 0.25 visits a
quarter of the records in each epoch, and all in four; 2.5 visits each two or three times.
"""

from collections.abc import Sequence
import fractions

import numpy as np

# Weights are taken as fractions with denominators up to this.
_DENOMINATOR = 1000


class Visits:
  """The visits of every epoch: a function of (sets, weights, seed, epoch)."""

  def __init__(self, set_of: np.ndarray, weights: Sequence[float], seed: int):
    """Shuffles the sets.

    Args:
      set_of: `(n,)` number of each record's set.
      weights: of each set, above 0.
      seed: of the shuffles.

    Raises:
      ValueError: an epoch may have no visits.
    """
    self._weights = [
      fractions.Fraction(weight).limit_denominator(_DENOMINATOR) for weight in weights
    ]
    self._set_of = set_of
    self._sizes = np.bincount(set_of, minlength=len(weights)).tolist()
    self._ranks = np.empty(len(set_of), np.int64)
    for number, size in enumerate(self._sizes):
      shuffled = np.random.default_rng([seed, number, size]).permutation(size)
      self._ranks[set_of == number] = shuffled
    if not any(self._of_set(number, 1) for number in range(len(weights))):
      raise ValueError(
        f"config.data.weights={tuple(weights)}: with sets of {self._sizes} clips some"
        " epochs would have none. Raise the weights."
      )

  def before(self, epoch: int) -> int:
    """Visits before an epoch."""
    return sum(self._of_set(number, epoch) for number in range(len(self._sizes)))

  def counts(self, epoch: int) -> np.ndarray:
    """`(n,)` int32: visits of each record in an epoch."""
    found = np.zeros(len(self._set_of), np.int32)
    for number, (size, weight) in enumerate(zip(self._sizes, self._weights, strict=True)):
      here = self._set_of == number
      ranks = self._ranks[here]
      ends = []
      for e in (epoch, epoch + 1):
        whole, rest = divmod(e * weight.numerator, weight.denominator)
        passed = rest * size + ranks * weight.denominator >= weight.denominator * size
        ends.append((whole, passed.astype(np.int32)))
      (before, passed), (after, passes) = ends
      found[here] = after - before + passes - passed
    return found

  def _of_set(self, number: int, epochs: int) -> int:
    """Visits of a set's records in the first epochs: the sum of all floors above.

    By Hermite's identity the floors of `x + k / n` for k from 0 to n - 1 add up to that
    of `n x`.
    """
    return int(self._sizes[number] * epochs * self._weights[number])
