"""The exact checker of Flatland: pixels -> objects, without a judge.

An object is a connected component. It has the color of the palette that most of its inner pixels are nearest to, and the shape whose
template it fits best.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from metabridge.training.flatland.captions import Want
from metabridge.training.flatland.world import COLORS, GROUND, SHAPES, outline

_FOREGROUND = 80.0  # distance from the ground, in RGB units of 0..255, from which a pixel belongs to an object
_MIN_AREA = 24  # pixels; smaller specks are dust
_PURE = 0.75  # this share of an object's inner pixels must be nearest to its color
_FIT = 0.72  # least overlap (intersection over union) with the template of its shape
_GRID = 32


@dataclass(frozen=True)
class Found:
    shape: str  # one of SHAPES, or "unclear"
    color: str  # one of COLORS, or "mixed"
    x: float  # centre of mass, pixels
    y: float
    box: tuple[int, int, int, int]  # left, top, right, bottom; right and bottom exclusive


def detect(image: Image.Image) -> list[Found]:
    """Objects of a picture, largest first."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    foreground = np.linalg.norm(pixels - np.array(GROUND, np.float32), axis=-1) > _FOREGROUND
    labels, _ = ndimage.label(foreground)
    found = []
    for index, (rows, cols) in enumerate(ndimage.find_objects(labels), start=1):
        mask = labels == index
        area = int(mask.sum())
        if area < _MIN_AREA:
            continue
        y, x = ndimage.center_of_mass(mask)
        shape = _shape(mask[rows, cols])
        found.append((area, Found(shape, _color(pixels, mask), float(x), float(y), (cols.start, rows.start, cols.stop, rows.stop))))
    return [f for _, f in sorted(found, key=lambda pair: -pair[0])]


def correct(image: Image.Image, want: Want) -> tuple[bool, str]:
    """Whether the picture shows exactly what is wanted, and if not, why."""
    found = detect(image)
    if len(found) != len(want.objects):
        return False, f"{len(found)} objects, wanted {len(want.objects)}"
    for order in permutations(found):
        if all(_matches(f, w) for f, w in zip(order, want.objects, strict=True)) and _related(order, want.relation):
            return True, ""
    if any(all(_matches(f, w) for f, w in zip(order, want.objects, strict=True)) for order in permutations(found)):
        return False, f"not {want.relation}"
    return False, "shows " + ", ".join(f"{f.color} {f.shape}" for f in found)


def _matches(found: Found, wanted: tuple[str | None, str | None]) -> bool:
    color, shape = wanted
    return found.shape == (shape or found.shape) != "unclear" and found.color == (color or found.color) != "mixed"


def _related(order: tuple[Found, ...], relation: str | None) -> bool:
    if relation is None:
        return True
    a, b = order[0], order[1]
    dx, dy = b.x - a.x, b.y - a.y
    # GenEval's rule in spirit: the offset along the named axis must be the larger one
    return dx > abs(dy) if relation == "left" else dy > abs(dx)


def _color(pixels: np.ndarray, mask: np.ndarray) -> str:
    inner = ndimage.binary_erosion(mask)
    values = pixels[inner if inner.sum() >= 8 else mask]
    palette = np.array(list(COLORS.values()), np.float32)
    nearest = np.linalg.norm(values[:, None] - palette[None], axis=-1).argmin(1)
    best = int(np.bincount(nearest, minlength=len(palette)).argmax())
    return list(COLORS)[best] if (nearest == best).mean() >= _PURE else "mixed"


def _shape(crop: np.ndarray) -> str:
    height, width = crop.shape
    if not 0.7 <= width / height <= 1.43:
        return "unclear"
    image = Image.fromarray(crop.astype(np.uint8) * 255).resize((_GRID, _GRID), Image.Resampling.BILINEAR)
    mask = np.asarray(image) > 127
    fits = {shape: (mask & t).sum() / (mask | t).sum() for shape, t in _templates().items()}
    best = max(fits, key=lambda shape: fits[shape])
    return best if fits[best] >= _FIT else "unclear"


@cache
def _templates() -> dict[str, np.ndarray]:
    """Each shape, stretched to its bounding box, on a 32 x 32 grid."""
    templates = {}
    for shape in SHAPES:
        image = Image.new("L", (400, 400))
        ImageDraw.Draw(image).polygon(outline(shape, 200, 200, 120), fill=255)
        templates[shape] = np.asarray(image.crop(image.getbbox()).resize((_GRID, _GRID), Image.Resampling.BOX)) > 127
    return templates
