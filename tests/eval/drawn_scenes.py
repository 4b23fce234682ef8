"""Pictures with a known answer: shapes drawn with Pillow, and a detector and color reader that know what was drawn.

The last rows of a picture hold the scene itself, as bytes in pixels: it survives every file and tensor that keeps all eight bits. As a
module of one's own (`detector: tests.eval.drawn_scenes`) it stands in for the models, so that the way from pixels to scores is tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from metabridge.eval.detect import Detection
from metabridge.eval.items import Services

PALETTE = {
    "red": (220, 20, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 20),
    "green": (20, 150, 40),
    "blue": (20, 60, 220),
    "purple": (120, 30, 160),
    "pink": (255, 130, 190),
    "brown": (120, 70, 20),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
GROUND = (119, 136, 136)  # no color of the palette
_MAGIC = b"SCENE"
SIZE = (256, 192)


@dataclass(frozen=True)
class Drawn:
    """An object. Its name is the class that a detector says; what is seen is an ellipse or a box of one color."""

    name: str
    box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive
    color: str = "red"
    score: float = 0.97
    form: str = "ellipse"  # ellipse | rectangle


def draw(scene: Sequence[Drawn], size: tuple[int, int] = SIZE) -> Image.Image:
    """Later objects cover earlier ones."""
    image = Image.new("RGB", size, GROUND)
    for one in scene:
        _outline(image, one, PALETTE[one.color])
    text = json.dumps([asdict(one) for one in scene]).encode()
    data = _MAGIC + len(text).to_bytes(4, "big") + text
    pixels = np.array(image)
    rows = -(-len(data) // (3 * size[0]))
    assert rows < size[1] // 4, "too much scene for so small a picture"
    pixels[-rows:] = np.frombuffer(data.ljust(rows * 3 * size[0], b"\0"), np.uint8).reshape(rows, size[0], 3)
    return Image.fromarray(pixels)


def _outline(image: Image.Image, one: Drawn, fill: Any) -> None:
    left, top, right, bottom = one.box
    getattr(ImageDraw.Draw(image), one.form)((left, top, right - 1, bottom - 1), fill=fill)


def scene_of(image: Image.Image) -> list[Drawn]:
    """What was drawn; nothing where the picture was not drawn here."""
    pixels = np.asarray(image.convert("RGB"))
    for rows in range(1, image.height // 4):  # the scene begins where a row begins
        start = pixels[-rows].tobytes()
        if start.startswith(_MAGIC):
            data = pixels[-rows:].tobytes()[len(_MAGIC) :]
            text = data[4 : 4 + int.from_bytes(data[:4], "big")]
            return [Drawn(**{**one, "box": tuple(one["box"])}) for one in json.loads(text)]
    return []


class Oracle:
    """Finds what was drawn, with the scores that the scene gives; reads colors from the pixels of a mask."""

    identity: Mapping[str, str] = {"repo": "drawn scenes"}

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        return [self._detect(image) for image in images]

    def _detect(self, image: Image.Image) -> list[Detection]:
        scene, found = scene_of(image), []
        layers = Image.new("L", image.size)
        for number, one in enumerate(scene, start=1):
            _outline(layers, one, number)
        for number, one in enumerate(scene, start=1):
            mask = np.asarray(layers) == number
            if mask.any():
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
                found.append(Detection(one.name, one.score, box, mask))
        return sorted(found, key=lambda one: -one.score)

    def colors(self, image: Image.Image, found: list[Detection]) -> list[str]:
        """Of each object the color that most of its pixels are nearest to."""
        return [_nearest(np.asarray(image, np.float64)[one.mask]) for one in found]


def _nearest(pixels: np.ndarray) -> str:
    distances = np.linalg.norm(pixels[:, None] - np.array(list(PALETTE.values()), np.float64), axis=-1)
    return list(PALETTE)[int(np.bincount(distances.argmin(1), minlength=len(PALETTE)).argmax())]


def load(services: Services) -> Oracle:
    return Oracle()


def right_scene(want: Mapping[str, Any]) -> list[Drawn]:
    """A scene that holds what GenEval's `include` clauses ask for, each object clear of the others, and nothing else."""
    scene: list[Drawn] = []
    groups: list[Drawn] = []
    for clause in want["include"]:
        for _ in range(clause["count"]):
            if "position" in clause:
                relation, target = clause["position"]
                scene.append(beside(groups[target], clause["class"], relation))
            else:
                column, row = len(scene) % 5, len(scene) // 5
                left, top = (108, 76) if any("position" in other for other in want["include"]) else (8 + 48 * column, 8 + 48 * row)
                scene.append(Drawn(clause["class"], (left, top, left + 40, top + 40)))
            scene[-1] = replace(scene[-1], color=clause.get("color", "red"), form=("ellipse", "rectangle")[len(scene) % 2])
        groups.append(scene[-1])
    return scene


def beside(target: Drawn, name: str, relation: str) -> Drawn:
    x, y = {"left of": (-60, 0), "right of": (60, 0), "above": (0, -60), "below": (0, 60)}[relation]
    left, top, right, bottom = target.box
    return Drawn(name, (left + x, top + y, right + x, bottom + y))


def wrong_scene(want: Mapping[str, Any]) -> list[Drawn]:
    """The same with one thing wrong: what the last clause asks for is elsewhere, in another color, one too many, or not there."""
    *others, last = right_scene(want)
    clause = want["include"][-1]
    if "position" in clause:
        relation, target = clause["position"]
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation]
        return [*others, replace(beside(others[target], last.name, opposite), color=last.color)]
    if "color" in clause:
        return [*others, replace(last, color=list(PALETTE)[(list(PALETTE).index(last.color) + 1) % len(PALETTE)])]
    if "exclude" in want:
        return [*others, last, replace(last, box=(8, 104, 48, 144))]
    return others
