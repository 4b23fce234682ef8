"""The embedded world: up to four flat shapes on a light ground, 64 x 64 pixels, drawn with Pillow.

Everything random takes a `random.Random`, so a scene is a function of a seed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 64  # pixels
GROUND = (245, 245, 240)
COLORS = {
    "red": (216, 38, 44),
    "orange": (246, 140, 30),
    "yellow": (250, 216, 46),
    "green": (44, 160, 76),
    "blue": (40, 92, 214),
    "purple": (140, 60, 176),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
RELATIONS = ("left", "right", "above", "below")

# A tenth of the color x shape pairs never occurs in the training of the hand's denoiser and text encoder or of a connector; each color and
# each shape occurs in other pairs. The hand's autoencoder, which knows no words, sees all pairs, and so does the brain.
HELD_OUT_PAIRS = frozenset({("orange", "heart"), ("purple", "square"), ("blue", "triangle"), ("yellow", "cross")})

_SUPERSAMPLE = 4
# By the number of objects: one has more room than several.
_SIZES = {1: (9.5, 12.0), 2: (8.5, 10.0), 3: (8.5, 10.0), 4: (8.5, 10.0)}  # pixels, from .. to
_JITTER = {1: 5.0, 2: 2.5, 3: 2.5, 4: 2.5}  # pixels, of each centre
# Where n objects stand, in reading order: one in the middle, two in a row, three as a triangle, four as a square.
_ROW = ((17.5, 32.0), (46.5, 32.0))
_COLUMN = ((32.0, 17.5), (32.0, 46.5))
_PLACES = {
    1: ((32.0, 32.0),),
    2: _ROW,
    3: ((32.0, 17.5), (17.5, 46.5), (46.5, 46.5)),
    4: ((17.5, 17.5), (46.5, 17.5), (17.5, 46.5), (46.5, 46.5)),
}


@dataclass(frozen=True)
class Object:
    shape: str
    color: str
    x: float  # centre, pixels from the left
    y: float  # centre, pixels from the top
    size: float  # radius of the circle it is inscribed in, pixels


@dataclass(frozen=True)
class Scene:
    objects: tuple[Object, ...]  # in reading order


def outline(shape: str, x: float, y: float, size: float) -> list[tuple[float, float]]:
    """The polygon of a shape around (x, y); a circle is one of 48 sides."""

    def ring(count: int, radii: tuple[float, ...], turn: float) -> list[tuple[float, float]]:
        angles = (turn + 2 * math.pi * k / count for k in range(count))
        return [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in zip(angles, radii * (count // len(radii)), strict=True)]

    up = -math.pi / 2
    if shape == "circle":
        return ring(48, (size * 0.95,), 0.0)
    if shape == "square":
        return ring(4, (size * 1.2,), math.pi / 4)
    if shape == "triangle":
        return [(px, py + size * 0.2) for px, py in ring(3, (size * 1.2,), up)]
    if shape == "star":
        return ring(10, (size * 1.2, size * 0.58), up)
    if shape == "cross":
        a, b = size * 0.34, size
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        return [(x + dx, y + dy) for dx, dy in corners]
    if shape == "heart":  # the usual curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, about 32 x 29 units
        points = []
        for k in range(48):
            t = 2 * math.pi * k / 48
            dy = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x + size / 15 * 16 * math.sin(t) ** 3, y - size / 15 * (dy + 2.5)))
        return points
    raise ValueError(f"no shape {shape!r} (there are {', '.join(SHAPES)})")


def draw(scene: Scene) -> Image.Image:
    """RGB, 64 x 64, antialiased."""
    image = Image.new("RGB", (SIDE * _SUPERSAMPLE,) * 2, GROUND)
    pen = ImageDraw.Draw(image)
    for o in scene.objects:
        points = outline(o.shape, o.x, o.y, o.size)
        pen.polygon([(px * _SUPERSAMPLE, py * _SUPERSAMPLE) for px, py in points], fill=COLORS[o.color])
    return image.reduce(_SUPERSAMPLE)


def arrange(rng: random.Random, kinds: list[tuple[str, str]], column: bool = False) -> Scene:
    """Place (color, shape) pairs, given in reading order, at their canonical places with a little jitter."""
    size = rng.uniform(*_SIZES[len(kinds)])
    jitter = _JITTER[len(kinds)]
    places = _COLUMN if column else _PLACES[len(kinds)]
    return Scene(
        tuple(
            Object(shape, color, x + rng.uniform(-jitter, jitter), y + rng.uniform(-jitter, jitter), size)
            for (color, shape), (x, y) in zip(kinds, places, strict=True)
        )
    )


def pick(rng: random.Random, allow_held_out: bool = False) -> tuple[str, str]:
    """A (color, shape) pair, by default among those that are not held out."""
    while True:
        pair = (rng.choice(list(COLORS)), rng.choice(SHAPES))
        if allow_held_out or pair not in HELD_OUT_PAIRS:
            return pair
