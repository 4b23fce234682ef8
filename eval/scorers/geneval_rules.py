"""GenEval's rules: which detections count, and whether they are what a prompt asks for. Arithmetic on names, scores, boxes and colors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabridge.bridge.settings import setting
from metabridge.eval.detect import Detection

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("above", "below", "left of", "right of")

Box = Sequence[float]  # x0, y0, x1, y1
ReadColors = Callable[[list[Detection]], list[str]]


@dataclass(frozen=True)
class Rules:
    """The official settings, by their official names."""

    threshold: float = setting(0.3, low=0, high=1)  # a detection counts above this score
    counting_threshold: float = setting(0.9, low=0, high=1)  # of prompts that ask for a number
    max_objects: int = setting(16, low=1)  # of a class
    max_overlap: float = setting(1.0, low=0, high=1)  # intersection over union with a better one of the class; 1: nothing is suppressed
    position_threshold: float = setting(0.1, low=0)  # of the two sizes' sum: an offset shrinks by so much before it counts


def keep(found: Sequence[Detection], tag: str, rules: Rules) -> dict[str, list[Detection]]:
    """Class -> its detections that count, best first; of equal scores the later one comes first."""
    threshold = rules.counting_threshold if tag == "counting" else rules.threshold
    by_class: dict[str, list[Detection]] = {}
    for one in sorted(reversed(found), key=lambda one: -one.score):
        if one.score > threshold:
            by_class.setdefault(one.name, []).append(one)
    return {name: _apart(objects[: rules.max_objects], rules.max_overlap) for name, objects in by_class.items()}


def _apart(objects: list[Detection], max_overlap: float) -> list[Detection]:
    """Greedy suppression of what overlaps a better object; officially off."""
    if max_overlap == 1:
        return objects
    kept: list[Detection] = []
    for one in objects:
        if all(iou(one.box, better.box) < max_overlap for better in kept):
            kept.append(one)
    return kept


def judge(want: Mapping[str, Any], kept: Mapping[str, Sequence[Detection]], read_colors: ReadColors, rules: Rules) -> tuple[bool, str]:
    """Whether all clauses hold, and what is wrong in the official words, a line each. Colors are read only where they decide."""
    wrong: list[str] = []
    groups: list[list[Detection] | None] = []  # what each clause found; None where its own check failed
    for clause in want.get("include", ()):
        objects = list(kept.get(clause["class"], ()))[: clause["count"]]
        reason = _number(clause, objects) or _color(clause, objects, read_colors) or _position(clause, objects, groups, rules)
        groups.append(None if reason else objects)
        if reason:
            wrong.append(reason)
    for clause in want.get("exclude", ()):
        name, most = clause["class"], clause["count"]
        if (number := len(kept.get(name, ()))) >= most:
            wrong.append(f"expected {name}<{most}, found {number}")
    return not wrong, "\n".join(wrong)


def _number(clause: Mapping[str, Any], objects: list[Detection]) -> str:
    return "" if len(objects) >= clause["count"] else f"expected {clause['class']}>={clause['count']}, found {len(objects)}"


def _color(clause: Mapping[str, Any], objects: list[Detection], read_colors: ReadColors) -> str:
    if (wanted := clause.get("color")) is None:
        return ""
    colors = read_colors(objects)
    if (number := colors.count(wanted)) >= clause["count"]:
        return ""
    seen = ", ".join(f"{colors.count(color)} {color}" for color in COLORS if color in colors)
    return f"expected {wanted} {clause['class']}>={clause['count']}, found {number} {wanted}; and {seen}"


def _position(clause: Mapping[str, Any], objects: list[Detection], groups: list[list[Detection] | None], rules: Rules) -> str:
    """Each object must stand so to each object of an earlier clause; the first pair that does not is the reason."""
    if "position" not in clause:
        return ""
    name, (wanted, place) = clause["class"], clause["position"]
    targets = groups[place]
    if targets is None:
        return f"no target for {name} to be {wanted}"
    for one in objects:
        for target in targets:
            found = relations(one.box, target.box, rules.position_threshold)
            if wanted not in found:
                return f"expected {name} {wanted} target, found {' and '.join(found)} target"
    return ""


def relations(a: Box, b: Box, shrink: float = 0.1) -> list[str]:
    """Where a stands as seen from b, along one axis or both; sorted, as the official set has no order of its own."""
    first, second = np.array(a, np.float64).reshape(2, 2), np.array(b, np.float64).reshape(2, 2)
    offset = first.mean(0) - second.mean(0)
    sizes = np.abs(first[1] - first[0]) + np.abs(second[1] - second[0])
    clear = np.sign(offset) * np.maximum(np.abs(offset) - shrink * sizes, 0)
    if (np.abs(clear) < 1e-3).all():
        return []
    x, y = clear / np.linalg.norm(offset)  # of the offset before it shrank: near objects have weaker directions
    return [name for name, strength in zip(RELATIONS, (-y, y, -x, x), strict=True) if strength > 0.5]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of boxes whose last pixel belongs to them."""
    both = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - both
    return both / union if union else 0.0


def _area(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)
