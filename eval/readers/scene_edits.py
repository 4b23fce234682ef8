"""Flatland's edits, pictures given and conversations, as scenes: what comes with a prompt, and what should come of it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.eval.items import Item
from metabridge.training.flatland.dialogues import Said, dialogue, frames
from metabridge.training.flatland.edits import EDITS, new_edit
from metabridge.training.flatland.given import Given, compose, reconstruct
from metabridge.training.flatland.places import describe, place_of
from metabridge.training.flatland.world import HELD_OUT_PAIRS, Object, Scene, draw

PROMPTS = 50  # a kind; a quarter as many on held-out pairs of color and shape
_SEED = 0  # of the prompts themselves: they are part of the benchmark and never change within a version
_DIGITS = 3  # of a pixel


@dataclass(frozen=True)
class _Asked:
    texts: tuple[str, ...]  # several in a conversation
    sources: tuple[Scene, ...]
    targets: tuple[Scene, ...]  # one a text

    @property
    def held_out(self) -> bool:
        return any((o.color, o.shape) in HELD_OUT_PAIRS for scene in (*self.sources, *self.targets) for o in scene.objects)

    @property
    def key(self) -> tuple[Any, ...]:
        """Two that agree in it ask for the same: a pixel more or less makes no other prompt."""
        scenes = (*self.sources, *self.targets)
        return self.texts, tuple(tuple((o.color, o.shape, place_of(o)) for o in scene.objects) for scene in scenes)


_Make = Callable[[random.Random, bool], _Asked]  # whether held-out pairs may occur


def _edit(kind: str, rng: random.Random, allow_held_out: bool) -> _Asked:
    e = new_edit(rng, kind, "eval", allow_held_out)
    return _Asked((e.text,), (e.source,), (e.target,))


def _given(make: Callable[..., Given], rng: random.Random, allow_held_out: bool) -> _Asked:
    g = make(rng, wanted="eval", allow_held_out=allow_held_out)
    return _Asked((g.text,), g.sources, (g.target,))


def _said(make: Callable[..., tuple[Said, ...]], rng: random.Random, allow_held_out: bool) -> _Asked:
    said = make(rng, wanted="eval", allow_held_out=allow_held_out)
    return _Asked(tuple(turn.text for turn in said), (), tuple(turn.scene for turn in said))


_MAKE: dict[str, _Make] = {
    **{kind: partial(_edit, kind) for kind in EDITS},
    "mix": partial(_given, partial(compose, kind="mix")),
    "both": partial(_given, partial(compose, kind="both")),
    "reconstruct": partial(_given, reconstruct),
    "dialogue": partial(_said, dialogue),
    "frames": partial(_said, frames),
}


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    kinds = [(kind, held_out) for held_out in (False, True) for kind in _MAKE]
    return [
        _item(number * PROMPTS + place, place, kind, asked, held_out)
        for number, (kind, held_out) in enumerate(kinds)
        for place, asked in enumerate(_distinct(kind, held_out))
    ]


def sources(item: Item) -> list[Image.Image]:
    return [draw(scene_of(scene)) for scene in item.want["sources"]]


def targets(item: Item) -> list[Image.Image]:
    return [draw(scene_of(scene)) for scene in item.want["targets"]]


def scene_of(tree: Any) -> Scene:
    return Scene(tuple(Object(*values) for values in tree))


def _distinct(kind: str, held_out: bool) -> list[_Asked]:
    rng = random.Random(f"{kind}/{_SEED}/{held_out}")
    number = math.ceil(PROMPTS / 4) if held_out else PROMPTS
    found: dict[tuple[Any, ...], _Asked] = {}
    while len(found) < number:
        asked = _MAKE[kind](rng, held_out)
        if asked.held_out == held_out:
            found.setdefault(asked.key, asked)
    return list(found.values())


def _item(number: int, place: int, kind: str, asked: _Asked, held_out: bool) -> Item:
    ident = f"{kind}{'-held-out' if held_out else ''}-{place:03d}"
    want = {
        "sources": [_tree(scene) for scene in asked.sources],
        "targets": [_tree(scene) for scene in asked.targets],
        "rewrite": "\n".join(describe(scene) for scene in asked.targets),  # a line a turn, as thoughts are kept
    }
    images = tuple(f"{ident}-{k}.png" for k in range(len(asked.sources)))
    turns = asked.texts if len(asked.texts) > 1 else ()
    return Item(number, ident, kind, " / ".join(asked.texts), want, images, turns, held_out)


def _tree(scene: Scene) -> list[list[Any]]:
    return [[o.shape, o.color, *(round(value, _DIGITS) for value in (o.x, o.y, o.size))] for o in scene.objects]
