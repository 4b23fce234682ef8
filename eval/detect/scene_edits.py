"""What is found in a picture of Flatland against the scene that it should show, object by object: shape, color and place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from metabridge.eval.detect.flatland import Found, detect
from metabridge.training.flatland.captions import noun
from metabridge.training.flatland.places import place_of
from metabridge.training.flatland.world import Object, Scene, draw

NEAR = 3.0  # pixels within which what must not move is still where it was
Point = tuple[float, float]


@dataclass(frozen=True)
class Wanted:
    """An object that should be there: within NEAR of a point, or with the right one of the named places as its nearest."""

    shape: str
    color: str
    place: str
    at: Point | None = None

    def __str__(self) -> str:
        return f"{self.color} {self.shape} {self.place or 'in the middle'}"

    @property
    def kind(self) -> tuple[str, str]:
        return self.color, self.shape


@dataclass(frozen=True)
class Compared:
    there: dict[Wanted, Found]
    missing: tuple[Wanted, ...]
    left: tuple[Found, ...]  # found, and nobody wanted it

    @property
    def right(self) -> bool:
        return not self.missing and not self.left

    @property
    def reason(self) -> str:
        """What is wrong, for people; "" where nothing is."""
        if self.right:
            return ""
        told = [_missing(wanted, self.left) for wanted in self.missing]
        found = [*self.there.values(), *self.left]
        if len(found) != (number := len(self.there) + len(self.missing)):
            told.insert(0, f"{len(found)} object{'s' * (len(found) != 1)}, wanted {number}")
        return f"{'; '.join(told)} (shows {shows(found)})"


def compare(found: Sequence[Found], wanted: Sequence[Wanted]) -> Compared:
    """Each wanted object takes one that fits: their places are apart, so that the order does not matter."""
    left, there, missing = list(found), {}, []
    for want in wanted:
        fitting = next((f for f in left if fits(f, want)), None)
        if fitting is None:
            missing.append(want)
        else:
            there[want] = fitting
            left.remove(fitting)
    return Compared(there, tuple(missing), tuple(left))


def fits(found: Found, wanted: Wanted) -> bool:
    if (found.color, found.shape) != wanted.kind:
        return False
    return place(found) == wanted.place if wanted.at is None else distance(middle(found), wanted.at) <= NEAR


def middle(found: Found) -> Point:
    """Of its box: the centre of mass of a heart or a triangle is not where it was put."""
    left, top, right, bottom = found.box
    return (left + right) / 2, (top + bottom) / 2


def place(found: Found) -> str:
    x, y = middle(found)
    return place_of(Object(found.shape, found.color, x, y, 0.0))


def size(found: Found) -> tuple[int, int]:
    left, top, right, bottom = found.box
    return right - left, bottom - top


def distance(a: Point, b: Point) -> float:
    return math.dist(a, b)


def is_still_there(old: Found, left: Sequence[Found]) -> bool:
    """What was to go, or anything else in its place."""
    return any((f.color, f.shape) == (old.color, old.shape) or distance(middle(f), middle(old)) <= NEAR for f in left)


def unlike(pictures: Sequence[Sequence[Found]], thing: Object, pixels: int) -> list[str]:
    """What is wrong with one and the same object in each picture: it is there once, and as large as in the first one."""
    reasons, first = [], None
    for found in pictures:
        alike = [f for f in found if (f.color, f.shape) == (thing.color, thing.shape)]
        if len(alike) != 1:
            number = "no" if not alike else str(len(alike))
            reasons.append(f"{number} {thing.color} {thing.shape} (shows {shows(found)})")
            continue
        first = first or size(alike[0])
        apart = max(abs(a - b) for a, b in zip(size(alike[0]), first, strict=True))
        reasons.append("" if apart <= pixels else f"the {thing.color} {thing.shape} is {apart} px larger or smaller than at first")
    return reasons


def shows(found: Sequence[Found]) -> str:
    return ", ".join(f"{f.color} {f.shape} {place(f) or 'in the middle'}" for f in found) or "nothing"


def standing(scene: Scene) -> dict[Object, Found]:
    """Each object as the checker sees it in the scene's own drawing."""
    seen = detect(draw(scene))
    return {thing: min(seen, key=lambda f: distance(middle(f), (thing.x, thing.y))) for thing in scene.objects}


def somewhere(scene: Scene) -> list[Wanted]:
    """Every object of a scene, at its named place."""
    return [Wanted(thing.shape, thing.color, place_of(thing)) for thing in scene.objects]


def where_they_stand(seen: dict[Object, Found]) -> list[Wanted]:
    """Every one of these objects, to the pixel."""
    return [Wanted(thing.shape, thing.color, place_of(thing), middle(found)) for thing, found in seen.items()]


def _missing(wanted: Wanted, left: Sequence[Found]) -> str:
    alike = [f for f in left if (f.color, f.shape) == wanted.kind]
    if not alike:
        return f"no {wanted}"
    if wanted.at is None or (off := min(distance(middle(f), wanted.at) for f in alike)) > 4 * NEAR:
        return f"{noun(*wanted.kind)} not {wanted.place or 'in the middle'}"
    return f"the {wanted.color} {wanted.shape} is {off:.1f} px off"
