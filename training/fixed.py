"""Rows that are looked at again and again: read once, with the same noise and timesteps each time, divided over the processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabridge.bridge.interfaces import Collate
from metabridge.bridge.model import Batch
from metabridge.bridge.objective import sample_sigma, shift_sigma
from metabridge.bridge.settings import Objective
from metabridge.training.data import Drawn
from metabridge.training.loader import Share, given
from metabridge.training.seeds import row_seed

BANDS = 4  # of timesteps: quarters of what the training draws, from little noise to much


@dataclass(frozen=True)
class FixedRows:
    """One process's part of `total` rows; row i is in band i % BANDS."""

    total: int
    own: list[int]  # as many for every process, so that sharded parts meet; a number from `total` on fills up and does not count
    filled: int  # total, and what fills up
    batches: list[Batch]  # of the own rows, in that order

    def gather(self, values: Tensor) -> Tensor:
        """[own, K] of each process -> [total, K] for all."""
        table = values.new_zeros(self.filled, values.shape[1])
        table[self.own] = values
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(table)
        return table[: self.total]


def fix(
    draw: Callable[[int], Drawn], total: int, seed: int, objective: Objective, collate: Collate, share: Share, together: int = 1
) -> FixedRows:
    """Rows 0..total-1 of `draw`; `together` neighbours stay in one process."""
    groups = -(-total // (together * share.processes)) * share.processes
    own = [group * together + k for group in range(share.process, groups, share.processes) for k in range(together)]
    rows = [draw(number % total) for number in own]
    seeds = [noise_seed(seed, number, objective) for number in own]
    size = len(share.rows(0))
    batches = [make_batch(rows[k : k + size], seeds[k : k + size], collate) for k in range(0, len(own), size)]
    return FixedRows(total, own, groups * together, batches)


def make_batch(rows: list[Drawn], seeds: list[int], collate: Collate) -> Batch:
    return Batch(
        inputs=(collate([row.example for row in rows]),),
        pixels=stack([row.pixels for row in rows if row.pixels is not None]),
        noise_seeds=tuple(seeds),
        captions=tuple(row.caption for row in rows),
        **given(rows),
    )


def stack(pictures: Sequence[NDArray[np.uint8]]) -> Tensor | None:
    """[H, W, 3] each -> [B, 3, H, W], uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) if pictures else None


def noise_seed(seed: int, number: int, objective: Objective) -> int:
    """The first of the row's seeds whose timestep lies in the row's band: all bands alike, which a few random rows are not."""
    edges = band_edges(objective)
    for attempt in itertools.count():
        candidate = row_seed(seed, attempt, number, "fixed")
        sigma = sample_sigma(torch.Generator().manual_seed(candidate), objective)
        if int(torch.bucketize(sigma, edges)) == number % BANDS:
            return candidate
    raise AssertionError("a band has a quarter of all seeds")


def band_edges(objective: Objective) -> Tensor:
    """The sigmas between the bands, [BANDS - 1]."""
    # s = F^-1(q), q = 1/4, 1/2, 3/4;  logit-normal: F^-1(q) = sigmoid(Phi^-1(q))
    quantile = torch.arange(1, BANDS) / BANDS
    return shift_sigma(quantile if objective.timesteps == "uniform" else torch.special.ndtri(quantile).sigmoid(), objective.shift)
