"""Flatland's edits, pictures given and conversations, exactly from pixels.

An edit is right if what was asked for is done and everything else stays: those two are told apart, too, and how far the pixels outside of
what was to change did. In a conversation each picture is held against its own turn's scene.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from metabridge.eval.items import Item, Services, Verdict

IN_PLACE = ("recolor", "replace")  # kinds whose object stays where it was
MARGIN = 4  # pixels around what is to change: antialiasing, and what a decoder smears
SAME_SIZE = 2  # pixels of a box's sides, from one picture of a conversation to the next
WORST_DIFFERENCE = 255.0
TURNS = ("turn_1", "turn_2", "turn_3")
_OF_SOME = {"edit": ("change", "rest", "outside"), "turns": TURNS, "": ()}  # measures that only some kinds of items have


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> SceneChecker:
    return SceneChecker()


def worst(options: Mapping[str, Any], item: Item) -> dict[str, float]:
    """The values of a picture that could not be drawn."""
    return _values(item, {"correct": 0.0, "outside": WORST_DIFFERENCE})


class SceneChecker:
    identity: Mapping[str, Any] = {"variant": "checker", "parser": 1}
    workers = 1
    batch = 32

    def check(self) -> None:
        """Nothing to look at: the checker has no weights."""

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict]:
        return [verdict(item, image) for item, image in rows]


def verdict(item: Item, image: Image.Image) -> Verdict:
    from metabridge.training.flatland.edits import EDITS

    if item.turns:
        return _conversation(item, image)
    return _edit(item, image) if item.group in EDITS else _whole(item, image)


def _values(item: Item, known: Mapping[str, float]) -> dict[str, float]:
    """Of a measure that an item does not have, nothing is counted: 0 of 0."""
    from metabridge.training.flatland.edits import EDITS

    own = _OF_SOME["turns" if item.turns else "edit" if item.group in EDITS else ""]
    values = {"correct": known["correct"]}
    for name in (name for names in _OF_SOME.values() for name in names):
        values |= {name: known.get(name, 0.0) if name in own else 0.0, f"{name}.of": float(name in own)}
    return values


def _edit(item: Item, image: Image.Image) -> Verdict:
    from metabridge.eval.detect import scene_edits as checker
    from metabridge.eval.detect.flatland import detect
    from metabridge.training.flatland.world import Scene, draw

    (source,), (target,) = _scenes(item, "sources"), _scenes(item, "targets")
    image = _to_scale(image)
    before, after = checker.standing(source), checker.standing(target)
    new = [thing for thing in target.objects if thing not in source.objects]
    gone = [before[thing] for thing in source.objects if thing not in target.objects]
    stays = checker.where_they_stand({thing: seen for thing, seen in before.items() if thing in target.objects})
    in_place = item.group in IN_PLACE
    comes = checker.where_they_stand({thing: after[thing] for thing in new}) if in_place else checker.somewhere(Scene(tuple(new)))
    rest = checker.compare(detect(image), stays)
    change = checker.compare(rest.left, comes)
    done = not change.missing and not any(checker.is_still_there(old, change.left) for old in gone)
    # what stands in the way of a change that was not made is no further fault
    kept = not rest.missing and len(change.left) <= (0 if done else max(len(new), len(gone)))
    boxes = [found.box for found in (*gone, *(after[thing] for thing in new), *change.there.values())]
    known = {"correct": done and kept, "change": done, "rest": kept, "outside": _difference(image, draw(source), boxes)}
    both = checker.Compared({**rest.there, **change.there}, (*change.missing, *rest.missing), change.left)
    return Verdict(_values(item, {name: float(value) for name, value in known.items()}), both.reason)


def _whole(item: Item, image: Image.Image) -> Verdict:
    """One picture out of two, or the same again: that one to the pixel, the other at the named places."""
    from metabridge.eval.detect import scene_edits as checker
    from metabridge.eval.detect.flatland import detect

    (target,) = _scenes(item, "targets")
    same = item.group == "reconstruct"
    wanted = checker.where_they_stand(checker.standing(target)) if same else checker.somewhere(target)
    found = checker.compare(detect(_to_scale(image)), wanted)
    return Verdict(_values(item, {"correct": float(found.right)}), found.reason)


def _conversation(item: Item, image: Image.Image) -> Verdict:
    from metabridge.eval.detect import scene_edits as checker
    from metabridge.eval.detect.flatland import detect

    found = [detect(_to_scale(picture)) for picture in _parts(image, len(item.turns))]
    scenes = _scenes(item, "targets")
    turns = [checker.compare(seen, checker.somewhere(scene)).reason for seen, scene in zip(found, scenes, strict=True)]
    reasons = checker.unlike(found, scenes[0].objects[0], SAME_SIZE) if item.group == "frames" else turns
    known = {"correct": float(not any(reasons)), **{name: float(not reason) for name, reason in zip(TURNS, turns, strict=True)}}
    told = "; ".join(f"{number}: {reason}" for number, reason in enumerate(reasons, 1) if reason)
    return Verdict(_values(item, known), told, {"turns": reasons})


def _scenes(item: Item, key: str) -> list[Any]:
    from metabridge.eval.readers.scene_edits import scene_of

    return [scene_of(scene) for scene in item.want[key]]


def _parts(image: Image.Image, number: int) -> list[Image.Image]:
    """Pictures that stand side by side, each by itself."""
    side = image.width // number
    return [image.crop((side * k, 0, side * (k + 1), image.height)) for k in range(number)]


def _to_scale(image: Image.Image) -> Image.Image:
    """As large as the world is, by whose pixels places are measured."""
    from metabridge.training.flatland.world import SIDE

    return image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _difference(image: Image.Image, source: Image.Image, boxes: Sequence[tuple[int, int, int, int]]) -> float:
    """Mean absolute difference outside of the boxes, 0..255."""
    outside = np.ones((source.height, source.width), bool)
    for left, top, right, bottom in boxes:
        outside[max(top - MARGIN, 0) : bottom + MARGIN, max(left - MARGIN, 0) : right + MARGIN] = False
    apart = np.abs(np.asarray(image, np.float64) - np.asarray(source, np.float64))
    return float(apart[outside].mean())
