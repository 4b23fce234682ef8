"""Memory that batches are written into by turns: never while somebody still looks at it."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Mixture
from metabridge.training.loader import AHEAD, KEPT, Share, batches
from metabridge.training.slots import InSlot, Slots
from tests.rows import write_jsonl, write_pictures


class Rest:
    def with_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.permute(0, 3, 1, 2)


def test_a_slot_is_free_again_when_no_view_of_it_is_left() -> None:
    slots = Slots(2, 24)
    given = slots.given(itertools.count())
    assert [next(given) for _ in range(3)] == [(0, 0), (1, 1), (2, None)]
    slots.array(1, (1, 2, 4, 3))[:] = 7
    batch = InSlot(Rest(), slots.number, 1, (1, 2, 4, 3)).whole()
    assert batch.shape == (1, 3, 2, 4) and bool((batch == 7).all())
    row = batch[0, :1]
    del batch
    gc.collect()
    assert next(given) == (3, None) and bool((row == 7).all())
    del row
    gc.collect()
    assert next(given) == (4, 1)


def test_a_batch_without_pictures_gives_its_slot_back() -> None:
    slots = Slots(1, 3)
    given = slots.given(itertools.count())
    rest, (_, slot) = Rest(), next(given)
    assert slot == 0 and InSlot(rest, slots.number, slot, None).whole() is rest
    assert next(given) == (1, 0)


@pytest.mark.slow
def test_batches_that_are_all_kept_are_those_of_a_thread(tree: dict[str, Any], bridge: Bridge, tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 7)
    path = write_jsonl(tmp_path, [{"prompt": f"row {k}", "target": name} for k, name in enumerate(names)])
    tree["data"] = [{"source": "jsonl", "path": str(path)}]
    mixture, steps = Mixture(Recipe.from_dict(tree), bridge.hand), 4 * (AHEAD + KEPT)
    kept = {workers: list(batches(mixture, bridge.brain.collate, Share(4, 1), 0, steps, workers)) for workers in (0, 1)}
    for one, other in zip(*kept.values(), strict=True):
        assert one.batch.pixels is not None and other.batch.pixels is not None
        assert torch.equal(one.batch.pixels, other.batch.pixels) and one.batch.captions == other.batch.captions
