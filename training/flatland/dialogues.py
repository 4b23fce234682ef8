"""Conversations about one picture: a first drawing, then changes to it; "it" is what was spoken of last."""

from __future__ import annotations

import random
from dataclasses import dataclass

from metabridge.training.flatland.captions import captioned, dress
from metabridge.training.flatland.edits import edit
from metabridge.training.flatland.places import describe, placed
from metabridge.training.flatland.world import Scene

TURNS = 3
_FIRST = {"placed": 0.7, "colors": 0.1, "color_attr": 0.2}
_WEIGHTS = {"recolor": 3, "replace": 2, "add": 3, "remove": 2, "move": 3, "keep": 1}


@dataclass(frozen=True)
class Said:
    text: str
    scene: Scene  # what its picture should show
    kind: str  # "draw" or one of EDITS


def dialogue(rng: random.Random, turns: int = TURNS, wanted: str = "train", allow_held_out: bool = False) -> tuple[Said, ...]:
    """A first drawing and `turns` - 1 changes, all of texts in the wanted split."""
    way = rng.choices(list(_FIRST), weights=list(_FIRST.values()))[0]
    scene = placed(rng, allow_held_out, most=2) if way == "placed" else captioned(rng, way, allow_held_out=allow_held_out).scene
    said = [Said(dress(rng, describe(scene), wanted), scene, "draw")]
    last: str | None = scene.objects[-1].shape
    while len(said) < turns:
        kind = rng.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
        done = edit(rng, kind, said[-1].scene, last, wanted, allow_held_out)
        if done is None:
            continue
        changed = [thing for thing in done.target.objects if thing not in done.source.objects]
        left = [*changed, *done.target.objects]
        last = left[0].shape if changed or len(left) == 1 else None
        said.append(Said(done.text, done.target, kind))
    return tuple(said)


def frames(rng: random.Random, wanted: str = "train", allow_held_out: bool = False) -> tuple[Said, ...]:
    """Three pictures with one and the same object: it stands, it moves, and something comes beside it or it moves once more."""
    while True:
        scene = placed(rng, allow_held_out, most=1)
        thing = scene.objects[0]
        moved = edit(rng, "move", scene, thing.shape, wanted, allow_held_out)
        third = moved and edit(rng, rng.choice(("add", "move")), moved.target, thing.shape, wanted, allow_held_out)
        if moved and third:
            first = Said(dress(rng, describe(scene), wanted), scene, "draw")
            return first, Said(moved.text, moved.target, "move"), Said(third.text, third.target, third.kind)
