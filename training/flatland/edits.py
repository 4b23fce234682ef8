"""Changes to a scene, said in words: recolor, replace, add, remove, move, keep. What is not named stays as it is, to the pixel.

Half of all instructions, chosen by a hash, are kept for evaluation: no training ever says them (`captions.split`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from metabridge.training.flatland.captions import captioned, noun, split
from metabridge.training.flatland.places import PLACES, color_for, in_order, layout_of, place_of, placed, stand
from metabridge.training.flatland.world import HELD_OUT_PAIRS, SHAPES, Object, Scene

EDITS = ("recolor", "replace", "add", "remove", "move", "keep")
_LEADS = ("", "", "please ", "now ", "then ", "next ", "can you ")
_TAILS = ("", "", " please", " now")


@dataclass(frozen=True)
class Edit:
    kind: str  # one of EDITS
    text: str
    source: Scene
    target: Scene

    @property
    def kept(self) -> tuple[Object, ...]:
        """What must look as it did."""
        return tuple(thing for thing in self.target.objects if thing in self.source.objects)

    @property
    def held_out(self) -> bool:
        return any((thing.color, thing.shape) in HELD_OUT_PAIRS for thing in (*self.source.objects, *self.target.objects))


def edit(
    rng: random.Random,
    kind: str | None = None,
    source: Scene | None = None,
    last: str | None = None,
    wanted: str = "train",
    allow_held_out: bool = False,
) -> Edit | None:
    """An edit of a scene (of a new one by default); None where this kind cannot be done to `source`.

    `last`: the shape that was spoken of last, which may be called "it".
    """
    if kind is None:
        kind = rng.choice(EDITS)
    if source is None:
        count_all = kind == "recolor" and rng.random() < 0.1  # "make them blue"
        source = captioned(rng, "counting", allow_held_out=allow_held_out).scene if count_all else placed(rng, allow_held_out, *_ROOM[kind])
    alone = len({thing.shape for thing in source.objects}) == 1
    it = source.objects[0].shape if alone else last
    for _ in range(100):
        done = _DO[kind](rng, source, it, allow_held_out)
        if done is None:
            return None
        said, target = done
        lead = rng.choice(_LEADS if said.split()[0] not in ("the", "it", "they") else ("", "now "))
        text = f"{lead}{said}{rng.choice(('', ' please') if lead else _TAILS)}"
        if split(text) == wanted:
            return Edit(kind, text, source, target)
    return None


def new_edit(rng: random.Random, kind: str | None = None, wanted: str = "train", allow_held_out: bool = False) -> Edit:
    """An edit of a new scene."""
    while True:
        if done := edit(rng, kind, wanted=wanted, allow_held_out=allow_held_out):
            return done


_ROOM = {kind: {"remove": (2, 3), "keep": (2, 3), "add": (1, 2)}.get(kind, (1, 3)) for kind in EDITS}  # objects in a new source
_Done = tuple[str, Scene] | None  # what is said, and the scene that results


def _called(rng: random.Random, things: Sequence[Object], it: str | None) -> tuple[Object | None, str]:
    """Something that can be named, and a name for it: "the star" or "it"."""
    shapes = [thing.shape for thing in things]
    named = [thing for thing in things if shapes.count(thing.shape) == 1]
    if not named:
        return None, ""
    thing = rng.choice(named)
    if it is not None and rng.random() < 0.6:
        thing = next((t for t in named if t.shape == it), thing)
    return thing, "it" if thing.shape == it and rng.random() < 0.6 else f"the {thing.shape}"


def _with(scene: Scene, old: Object, new: Object) -> Scene:
    return in_order([new if thing is old else thing for thing in scene.objects])


def _recolor(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    shapes = {thing.shape for thing in source.objects}
    if len(source.objects) > 1 and len(shapes) == 1:
        color = color_for(rng, source.objects[0].shape, allow_held_out, but=source.objects[0].color)
        said = rng.choice(("make them {}", "color them {}", "they should be {}")).format(color)
        return said, Scene(tuple(replace(thing, color=color) for thing in source.objects))
    thing, name = _called(rng, source.objects, it)
    if thing is None:
        return None
    color = color_for(rng, thing.shape, allow_held_out, but=thing.color)
    said = rng.choice(("make {} {}", "color {} {}", "paint {} {}", "{} should be {}")).format(name, color)
    return said, _with(source, thing, replace(thing, color=color))


def _replace(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    thing, name = _called(rng, source.objects, it)
    taken = {t.shape for t in source.objects}
    free = [s for s in SHAPES if s not in taken and thing and (allow_held_out or (thing.color, s) not in HELD_OUT_PAIRS)]
    if thing is None or not free:
        return None
    shape = rng.choice(free)
    said = rng.choice(("replace {} with {}", "turn {} into {}", "change {} to {}")).format(name, noun(None, shape))
    return said, _with(source, thing, replace(thing, shape=shape))


def _add(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    free = _free(source)
    shapes = [s for s in SHAPES if s not in {t.shape for t in source.objects}]
    if not free or not shapes or len(source.objects) > 2:
        return None
    place, shape = rng.choice(free), rng.choice(shapes)
    color = color_for(rng, shape, allow_held_out)
    said = rng.choice(("add {} {}", "put {} {}", "draw {} {} too")).format(noun(color, shape), place)
    return said, in_order([*source.objects, stand(rng, color, shape, place)])


def _remove(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    thing, name = _called(rng, source.objects, it)
    if thing is None or len(source.objects) < 2:
        return None
    said = rng.choice(("remove {}", "take {} away", "delete {}", "leave {} out")).format(name)
    return said, Scene(tuple(t for t in source.objects if t is not thing))


def _move(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    thing, name = _called(rng, source.objects, it)
    free = _free(source) if len(source.objects) > 1 else [p for p in PLACES if p and p != place_of(source.objects[0])]
    if thing is None or not free:
        return None
    place = rng.choice(free)
    said = rng.choice(("move {} {}", "put {} {}", "shift {} {}")).format(
        name, place.replace("on the", "to the").replace("at the", "to the")
    )
    x, y = PLACES[place]
    return said, _with(source, thing, replace(thing, x=x + rng.uniform(-2.5, 2.5), y=y + rng.uniform(-2.5, 2.5)))


def _keep(rng: random.Random, source: Scene, it: str | None, allow_held_out: bool) -> _Done:
    thing, name = _called(rng, source.objects, None)
    if thing is None or len(source.objects) < 2:
        return None
    return rng.choice(("only {}", "keep only {}", "nothing but {}")).format(name), Scene((thing,))


def _free(scene: Scene) -> list[str]:
    """Places of the scene's layout where nothing stands."""
    taken = {place_of(thing) for thing in scene.objects}
    return [place for place in layout_of(scene) if place not in taken]


_DO: dict[str, Callable[[random.Random, Scene, str | None, bool], _Done]] = {
    "recolor": _recolor,
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "move": _move,
    "keep": _keep,
}
assert tuple(_DO) == EDITS
