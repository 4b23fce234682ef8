from __future__ import annotations

import pytest
import torch

from metabridge.bridge.interfaces import Brain, Condition, Hand, Memory
from metabridge.bridge.settings import Objective


def condition(rows: int, length: int, pooled: bool = False) -> Condition:
    return Condition(torch.randn(rows, length, 4), torch.ones(rows, length, dtype=torch.long), torch.randn(rows, 3) if pooled else None)


def test_cat_pads_the_shorter_behind_its_mask() -> None:
    short, long = condition(1, 2), condition(2, 5)
    both = Condition.cat([short, long])
    assert both.embeds.shape == (3, 5, 4)
    assert both.mask.tolist() == [[1, 1, 0, 0, 0], [1] * 5, [1] * 5]
    assert torch.equal(both.embeds[:1, :2], short.embeds) and not both.embeds[:1, 2:].any()


def test_rows_expand_and_pooled() -> None:
    one = condition(2, 3, pooled=True)
    picked = one.rows(torch.tensor([1, 1, 0]))
    assert torch.equal(picked.embeds[0], one.embeds[1]) and torch.equal(picked.pooled[2], one.pooled[0])  # type: ignore[index]
    assert one.rows(torch.tensor([0])).expand(4).pooled.shape == (4, 3)  # type: ignore[union-attr]


def test_cat_of_unlike_conditions() -> None:
    with pytest.raises(ValueError, match="with and without pooled"):
        Condition.cat([condition(1, 2), condition(1, 2, pooled=True)])


def test_the_verbs_are_an_adapters_to_give() -> None:
    memory = Memory((), torch.ones(1, 1), torch.ones(1), None)
    brain, hand, x, c = Brain(), Hand(), torch.zeros(1), condition(1, 1)
    for call in (
        lambda: brain.read({}),
        lambda: brain.query(memory, x, (-1,)),
        lambda: brain.reply(memory),
        brain.embedding_std,
        lambda: hand.encode(x),
        lambda: hand.decode(x),
        lambda: hand.latent_shape(8, 8),
        lambda: hand.loss(x, c, Objective(), (0,)),
        lambda: hand.draw(c, [], (1, 1, 1), 1, [], []),
        lambda: hand.describe(["a"]),
        hand.condition_rms,
    ):
        with pytest.raises(NotImplementedError):
            call()
