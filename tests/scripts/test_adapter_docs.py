"""The brain and the hand of docs/adapters.md, run as a third party's modules."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from metabridge.adapters import load
from metabridge.bridge.interfaces import Example
from metabridge.bridge.settings import Part
from tests.scripts.conftest import Command

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


def test_what_the_page_says_trains_and_draws(written: Path, metabridge: Command) -> None:
    code, _, err = metabridge("train", written / "mine.yaml", "--out", written / "run")
    assert code == 0, err
    code, _, err = metabridge("generate", written / "run", "a red star", "-o", written / "star.png")
    assert code == 0, err
    with Image.open(written / "star.png") as star:
        assert star.size == (64, 64)


def test_the_brain_of_the_page_is_exact(written: Path) -> None:
    """As every brain: a batch equals its rows, a Memory is read on as if it were read at once, and no query changes it."""
    brain = load("brains", Part("mine.brain"))
    queries = torch.randn(3, brain.width)
    rows = [Example("a red star"), Example("a")]
    together = brain.query(brain.read(brain.collate(rows)), queries, (-1, 1))
    alone = torch.cat([brain.query(brain.read(brain.collate([row])), queries, (-1, 1)) for row in rows])
    assert (together - alone).abs().max() <= 1e-6
    memory = brain.read(brain.collate([Example("a red star")]))
    assert torch.equal(brain.query(memory, queries, (-1,)), brain.query(memory, queries, (-1,)))
    ids = brain.collate([Example("a red star")])["input_ids"]
    parts = [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in (ids[:, :4], ids[:, 4:])]
    assert torch.equal(brain.read(parts[1], brain.read(parts[0])).cache, memory.cache)
