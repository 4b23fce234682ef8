"""Which row comes when, in closed form: any process can ask for any row at any time, and a resume needs no state."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

MASK = (1 << 64) - 1
TOGETHER = 8  # blocks that are shuffled as one: rows that lie together on the disk are read together


START = 0x9E3779B97F4A7C15


def mix(*numbers: int, state: int = START) -> int:
    """A hash of whole numbers, 64 bits: the finaliser of splitmix64 (Steele et al. 2014), folded over them.

    `state`: what mix() of the numbers before them gave.
    """
    for number in numbers:
        state = (state ^ (number & MASK)) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ (state >> 30)) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def permute(index: int, size: int, *seed: int) -> int:
    """Where a seeded permutation of range(size) sends `index`, without a table: a Feistel network, walked until it is inside the range."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    seeded = mix(*seed)
    turns = [mix(turn, state=seeded) for turn in range(4)]
    while True:
        left, right = index >> half, index & low
        for turn in turns:
            left, right = right, left ^ (mix(right, state=turn) & low)
        index = left << half | right
        if index < size:
            return index


class Shares:
    """Row number r of the run -> (source, how many rows of that source came before). Never more than a row off the weights, at any r.

    Sources stand in a chain; at each, of w parts out of the w + rest that are left, the Bresenham line decides:
    rows taken before r = floor((w r + o) / (w + rest)), o drawn by the seed.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        parts = [Fraction(repr(weight)) for weight in weights]  # 0.1 is a tenth
        common = math.lcm(*(part.denominator for part in parts))
        self.parts = [int(part * common) for part in parts]
        self.left = [sum(self.parts[k:]) for k in range(len(self.parts))]
        self.offsets = [mix(seed, k) % left if left else 0 for k, left in enumerate(self.left)]

    def locate(self, row: int) -> tuple[int, int]:
        for source, (part, left, offset) in enumerate(zip(self.parts, self.left, self.offsets, strict=True)):
            before = (part * row + offset) // left
            if (part * (row + 1) + offset) // left > before:
                return source, before
            row -= before
        raise AssertionError("the last source with a weight takes what is left")


class Order:
    """The rows of a table in epochs, each shuffled anew, `held_out` of them left out for good: the same ones whatever the seed.

    `blocks`: lengths of the runs of rows that are cheap to read together (a shard, a row group); one, where any row is cheap to read.
    """

    def __init__(self, blocks: Sequence[int], seed: int, held_out: int = 0) -> None:
        size = sum(blocks)
        self.seed = seed
        self.held_out = sorted(permute(k, size, 0) for k in range(held_out))
        ends = list(itertools.accumulate(blocks))
        cuts = [bisect.bisect_left(self.held_out, end) for end in ends]
        kept_ends = [end - cut for end, cut in zip(ends, cuts, strict=True)]
        self.blocks = [(start, end - start) for start, end in itertools.pairwise([0, *kept_ends]) if end > start]
        self.size = size - held_out
        self._shifted = [row - k for k, row in enumerate(self.held_out)]

    def index(self, number: int) -> int:
        """The table's row that comes as row `number` of the run."""
        epoch, place = divmod(number, self.size)
        groups, ends = self._epoch(epoch)
        group = bisect.bisect_right(ends, place)
        blocks = groups[group]
        start = ends[group - 1] if group else 0
        place = permute(place - start, ends[group] - start, self.seed, 1, epoch, group)
        for first, length in blocks:
            if place < length:
                return self._kept(first + place)
            place -= length
        raise AssertionError("a group holds its rows")

    def another(self, number: int, attempt: int) -> int:
        """A row in the place of one that cannot be used."""
        return self._kept(mix(self.seed, 2, number, attempt) % self.size)

    def _kept(self, rank: int) -> int:
        """The rank-th row that is not held out."""
        return rank + bisect.bisect_right(self._shifted, rank)

    @lru_cache(maxsize=4)  # noqa: B019  an Order lives as long as its run
    def _epoch(self, epoch: int) -> tuple[list[list[tuple[int, int]]], list[int]]:
        """Groups of blocks in the epoch's order, and the row at which each ends."""
        shuffled = [self.blocks[permute(k, len(self.blocks), self.seed, 3, epoch)] for k in range(len(self.blocks))]
        groups = [shuffled[k : k + TOGETHER] for k in range(0, len(shuffled), TOGETHER)]
        return groups, list(itertools.accumulate(sum(length for _, length in group) for group in groups))
