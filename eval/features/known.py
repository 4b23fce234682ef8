"""An encoder looks at two known pictures before it looks at any other: weights or a device that are broken are found there."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from metabridge.bridge.errors import UserError
from metabridge.eval.features import Encoder

ROUNDING = 1e-5  # distance of answers that should be the same, as a share of their length
_ADVICE = "the weights or the device are broken: compare --device cpu, and fetch the weights again"


def pictures() -> list[Image.Image]:
    """A landscape of sorts, and tiles; of different shapes, neither square."""
    sky = Image.new("RGB", (320, 240), "#80b0f0")
    draw = ImageDraw.Draw(sky)
    draw.rectangle((0, 150, 320, 240), fill="#306020")
    draw.ellipse((220, 30, 280, 90), fill="#ffe060")
    tiles = Image.new("RGB", (200, 300), "#c02020")
    draw = ImageDraw.Draw(tiles)
    for x in range(0, 200, 50):
        for y in range(x % 100, 300, 100):
            draw.rectangle((x, y, x + 49, y + 49), fill="#101010")
    return [sky, tiles]


def check(role: str, encoder: Encoder) -> None:
    """Finite; different for different pictures; the same for the same one, alone and beside another."""
    sky, tiles = pictures()
    both, again, alone = encoder.images([sky, tiles]), encoder.images([sky, tiles]), encoder.images([sky])
    where = f"{role} {encoder.name}"
    if not np.isfinite(both).all():
        raise UserError(f"{where}: the features of a known picture are not finite; {_ADVICE}")
    if _apart(both[0], both[1]) <= ROUNDING:
        raise UserError(f"{where}: the same features for two different pictures; {_ADVICE}")
    for other, how in ((again[0], "looked at again"), (alone[0], "looked at alone")):
        if not _apart(both[0], other) <= ROUNDING:
            raise UserError(f"{where}: other features for a picture when {how}; {_ADVICE}")


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), float(np.linalg.norm(b)), 1e-30)
