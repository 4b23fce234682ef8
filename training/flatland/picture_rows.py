"""Training rows on pictures: edits, one out of two, the same again, turns of a conversation. The thought is the target's caption."""

from __future__ import annotations

import random
from collections.abc import Callable

from metabridge.bridge.interfaces import Example, Turn
from metabridge.training.flatland.dialogues import dialogue, frames
from metabridge.training.flatland.edits import new_edit
from metabridge.training.flatland.places import describe
from metabridge.training.flatland.sources import Given, compose, reconstruct
from metabridge.training.flatland.world import draw


def edit_row(seed: int, think: float) -> Example:
    rng = random.Random(seed)
    e = new_edit(rng)
    thought = describe(e.target) if rng.random() < think else None
    return Example(e.text, (draw(e.source),), draw(e.target), thought=thought)


def compose_row(seed: int, think: float) -> Example:
    rng = random.Random(seed)
    return _given(rng, compose(rng), think)


def reconstruct_row(seed: int, think: float) -> Example:
    rng = random.Random(seed)
    return _given(rng, reconstruct(rng), think)


def dialogue_row(seed: int, think: float) -> Example:
    """One turn of three: a conversation thinks in every turn or in none."""
    rng = random.Random(seed)
    said = frames(rng) if rng.random() < 0.2 else dialogue(rng)
    thinks, last = rng.random() < think, rng.choice((0, 1, 1, 2, 2, 2))
    history = []
    for turn in said[:last]:
        thought = describe(turn.scene) if thinks else ""
        history += [Turn("user", turn.text, think=thinks), Turn("assistant", thought, (draw(turn.scene),))]
    now = said[last]
    return Example(now.text, (), draw(now.scene), tuple(history), describe(now.scene) if thinks else None)


def _given(rng: random.Random, given: Given, think: float) -> Example:
    thought = describe(given.target) if rng.random() < think else None
    return Example(given.text, tuple(draw(scene) for scene in given.sources), draw(given.target), thought=thought)


PICTURE_ROWS: dict[str, Callable[[int, float], Example]] = {
    "edit": edit_row,
    "compose": compose_row,
    "reconstruct": reconstruct_row,
    "dialogue": dialogue_row,
}
