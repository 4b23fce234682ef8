"""Training rows on pictures: edits, one out of two, the same again, turns of a conversation. The thought is the target's caption."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from metabridge.bridge.interfaces import Example, Turn
from metabridge.training.flatland import dialogues
from metabridge.training.flatland.edits import new_edit
from metabridge.training.flatland.given import Given, compose, reconstruct
from metabridge.training.flatland.places import describe, in_order, place_of
from metabridge.training.flatland.world import HELD_OUT_PAIRS, Object, Scene, draw

_WEIGHTS = {"recolor": 3, "replace": 3, "add": 5, "remove": 2, "move": 2, "keep": 1}  # what is new has to be bound, what stays is shown
MISREAD = ("recolor", "remove", "move", "keep")  # of the others Flatland's brain gives nearly every thought right


def edit_row(seed: int, think: float, misread: float = 0.0) -> Example:
    rng = random.Random(seed)
    e = new_edit(rng, rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0])
    if len(e.source.objects) == 1:  # soon learnt: with several, one has to be told from another
        e = new_edit(rng, e.kind)
    thought = _thought(rng, e.source, e.target, misread if e.kind in MISREAD else 0.0) if rng.random() < think else None
    return Example(e.text, (draw(e.source),), draw(e.target), thought=thought)


def compose_row(seed: int, think: float) -> Example:
    rng = random.Random(seed)
    return _given(rng, compose(rng, rng.choice(("mix", "both"))), think)


def reconstruct_row(seed: int, think: float) -> Example:
    rng = random.Random(seed)
    return _given(rng, reconstruct(rng), think)


def dialogue_row(seed: int, think: float, misread: float = 0.0, frames: float = 0.0) -> Example:
    """One turn of three: a conversation thinks in every turn or in none. `frames`: share of those with one object in every picture."""
    rng = random.Random(seed)
    said = dialogues.frames(rng) if rng.random() < frames else dialogues.dialogue(rng)
    thinks, last = rng.random() < think, rng.choice((0, 1, 1, 2, 2, 2))
    history = []
    for turn in said[:last]:
        answer = Turn("assistant", describe(turn.scene) if thinks else "", (draw(turn.scene),))
        history += [Turn("user", turn.text, think=thinks), answer]
    now = said[last]
    thought = _thought(rng, said[last - 1].scene, now.scene, misread if now.kind in MISREAD else 0.0) if thinks else None
    return Example(now.text, (), draw(now.scene), tuple(history), thought)


def _given(rng: random.Random, given: Given, think: float) -> Example:
    thought = describe(given.target) if rng.random() < think else None
    return Example(given.text, tuple(draw(scene) for scene in given.sources), draw(given.target), thought=thought)


def _thought(rng: random.Random, source: Scene, target: Scene, share: float) -> str:
    return describe(misread(rng, source, target) if rng.random() < share else target)


def misread(rng: random.Random, source: Scene, target: Scene) -> Scene:
    """The target as a brain has it that takes the color or the place of one object for another's, as most wrong thoughts of edits do.

    The words and the picture still say what is right: a hand that is given both learns to trust them more than the thought.
    The target itself where there is one object alone, which no brain takes for another.
    """
    things = list(target.objects)
    if len(source.objects) == 1 or len({thing.shape for thing in things}) < len(things):
        return target
    colors, places = (
        [scene for scene in wrong if _may_be_thought(scene, target)] for wrong in (_colors(source, things), _places(source, things))
    )
    found = colors if colors and (not places or rng.random() < 0.75) else places
    return rng.choice(found) if found else target


def _may_be_thought(scene: Scene, target: Scene) -> bool:
    return describe(scene) != describe(target) and not any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in scene.objects)


def _colors(source: Scene, things: list[Object]) -> Iterator[Scene]:
    """One object in another's color; the other as it should be, in the color of the one, or as it was before the change."""
    for thing in things:
        for other in (*source.objects, *things):
            if other.shape == thing.shape:
                continue
            others = [other.color]
            if other in things:
                others += [thing.color, *(old.color for old in source.objects if old.shape == other.shape)]
            for color in others:
                new = {thing.shape: other.color, other.shape: color}
                yield in_order([replace(there, color=new.get(there.shape, there.color)) for there in things])


def _places(source: Scene, things: list[Object]) -> Iterator[Scene]:
    """One object in another's place, and what should stand there in the place of the one."""
    for thing in things:
        for other in (*source.objects, *things):
            if place_of(other) == place_of(thing):
                continue
            moved = [
                replace(there, x=thing.x, y=thing.y) if place_of(there) == place_of(other) else there
                for there in things
                if there is not thing
            ]
            yield in_order([*moved, replace(thing, x=other.x, y=other.y)])


PICTURE_ROWS: dict[str, Callable[..., Example]] = {
    "edit": edit_row,
    "compose": compose_row,
    "reconstruct": reconstruct_row,
    "dialogue": dialogue_row,
}
