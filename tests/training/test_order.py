"""Closed forms of order: permutations are permutations, shares are exact, epochs hold every row once."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from metabridge.training.order import Order, Shares, mix, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 64, 1000, 1025])
def test_a_permutation_without_a_table(size: int) -> None:
    for seed in (0, 1):
        assert sorted(permute(k, size, seed) for k in range(size)) == list(range(size))


def test_permutations_differ_by_seed_and_scatter() -> None:
    a, b = ([permute(k, 1000, seed) for k in range(1000)] for seed in (0, 1))
    assert sum(x == y for x, y in zip(a, b, strict=True)) < 10
    assert sum(abs(y - x) < 10 for x, y in itertools.pairwise(a)) < 60  # neighbours are no neighbours any more


def test_orders_of_today_are_those_of_tomorrow() -> None:
    """A run is resumed by the version that comes next."""
    assert mix(0, 1, 2) == 12093209810725130113
    assert [permute(k, 10, 7) for k in range(10)] == [2, 5, 6, 0, 4, 3, 7, 9, 8, 1]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.1, 0.2, 0.7], [3.0, 0.0, 1.0], [5.0, 1e-3, 2.5, 0.25]])
def test_shares_are_never_more_than_a_row_off(weights: list[float]) -> None:
    for seed in range(3):
        shares, counts, total = Shares(weights, seed), Counter[int](), sum(weights)
        for row in range(3000):
            source, before = shares.locate(row)
            assert before == counts[source]  # each source's rows are counted without a gap
            counts[source] += 1
            assert all(abs(counts[k] - (row + 1) * weight / total) <= len(weights) for k, weight in enumerate(weights))
        assert not any(counts[k] for k, weight in enumerate(weights) if not weight)


@pytest.mark.parametrize("blocks", [[40], [1] * 40, [7, 0, 13, 20], [4] * 10])
@pytest.mark.parametrize("held_out", [0, 5])
def test_an_epoch_holds_every_row_once(blocks: list[int], held_out: int) -> None:
    order = Order(blocks, 3, held_out)
    assert len(set(order.held_out)) == held_out and order.size == 40 - held_out
    epochs = [[order.index(epoch * order.size + k) for k in range(order.size)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted([*epoch, *order.held_out]) == list(range(40))
    assert epochs[0] != epochs[1] != epochs[2]
    assert not {order.another(k, attempt) for k in range(100) for attempt in (1, 2)} & set(order.held_out)


def test_blocks_are_read_together() -> None:
    """Of 100 blocks, the first rows come from no more than are shuffled as one."""
    order = Order([10] * 100, 0)
    assert len({order.index(k) // 10 for k in range(80)}) == 8


def test_the_same_rows_are_held_out_whatever_the_seed() -> None:
    """Stages have seeds of their own, and what one validates on must not be what another was trained on."""
    assert Order([100], 0, 8).held_out == Order([100], 1, 8).held_out
