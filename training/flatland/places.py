"""Scenes whose objects stand at named places, so that one can be added, taken away or moved while the others stay where they are.

Nine places in four layouts: the middle alone, a row of two, a column of two, the four corners. The objects of a scene share a layout, in
which no two can touch.
"""

from __future__ import annotations

import random

from metabridge.training.flatland.captions import counted, noun
from metabridge.training.flatland.world import COLORS, HELD_OUT_PAIRS, SHAPES, Object, Scene

PLACES = {
    "": (32.0, 32.0),  # the middle goes without saying
    "on the left": (17.5, 32.0),
    "on the right": (46.5, 32.0),
    "at the top": (32.0, 17.5),
    "at the bottom": (32.0, 46.5),
    "at the top left": (17.5, 17.5),
    "at the top right": (46.5, 17.5),
    "at the bottom left": (17.5, 46.5),
    "at the bottom right": (46.5, 46.5),
}  # centre, pixels; in reading order within a layout
MIDDLE, ROW, COLUMN, CORNERS = LAYOUTS = (
    ("",),
    ("on the left", "on the right"),
    ("at the top", "at the bottom"),
    ("at the top left", "at the top right", "at the bottom left", "at the bottom right"),
)
_SHARES = (0.25, 0.2, 0.15, 0.4)  # of scenes in each layout
_MOST = 3  # objects in a scene
_SIZE, _JITTER = (8.5, 10.0), 2.5  # pixels, as two in a row have them; the middle has more room
_SIZE_ALONE, _JITTER_ALONE = (9.5, 12.0), 5.0


def place_of(thing: Object) -> str:
    """The nearest place."""
    return min(PLACES, key=lambda place: (thing.x - PLACES[place][0]) ** 2 + (thing.y - PLACES[place][1]) ** 2)


def layout_of(scene: Scene) -> tuple[str, ...]:
    place = place_of(scene.objects[0])
    return next(layout for layout in LAYOUTS if place in layout)


def color_for(rng: random.Random, shape: str, allow_held_out: bool = False, but: str | None = None) -> str:
    """A color for a shape, other than `but`; by default such that the pair is not held out."""
    free = [c for c in COLORS if c != but and (allow_held_out or (c, shape) not in HELD_OUT_PAIRS)]
    return rng.choice(free)


def stand(rng: random.Random, color: str, shape: str, place: str) -> Object:
    """An object at a place, with a little jitter."""
    (low, high), jitter = (_SIZE, _JITTER) if place else (_SIZE_ALONE, _JITTER_ALONE)
    x, y = PLACES[place]
    return Object(shape, color, x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter), rng.uniform(low, high))


def in_order(things: list[Object]) -> Scene:
    """A scene with its objects in reading order."""
    order = list(PLACES)
    return Scene(tuple(sorted(things, key=lambda thing: order.index(place_of(thing)))))


def placed(rng: random.Random, allow_held_out: bool = False, least: int = 1, most: int = _MOST) -> Scene:
    """From `least` to `most` objects of different shapes in one layout."""
    while True:
        layout = rng.choices(LAYOUTS, weights=_SHARES)[0]
        if len(layout) >= least:
            break
    number = rng.randint(least, min(most, len(layout)))
    shapes, places = rng.sample(SHAPES, number), rng.sample(layout, number)
    return in_order([stand(rng, color_for(rng, s, allow_held_out), s, place) for s, place in zip(shapes, places, strict=True)])


def describe(scene: Scene) -> str:
    """The full caption of a scene: every color and shape in reading order, and the places where they are not the usual ones."""
    kinds = [(thing.color, thing.shape) for thing in scene.objects]
    places = tuple(place_of(thing) for thing in scene.objects)
    if len(kinds) > 2 and len(set(kinds)) == 1:
        return counted(len(kinds), *kinds[0])
    if places == COLUMN:
        return " above ".join(noun(*kind) for kind in kinds)
    if places == ROW and kinds[0] == kinds[1]:
        return counted(2, *kinds[0])
    if places in (MIDDLE, ROW):
        return " and ".join(noun(*kind) for kind in kinds)
    return " and ".join(f"{noun(*kind)} {place}" for kind, place in zip(kinds, places, strict=True))
