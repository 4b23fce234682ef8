"""The sizes in which pictures are trained on: buckets of one area and several aspect ratios, and how a picture is cut to one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Hand
from metabridge.bridge.settings import Train
from metabridge.bridge.sizes import accepted, cover
from metabridge.training.order import permute
from metabridge.training.schema import BadRow, decoded

Size = tuple[int, int]  # height, width
STEP = 8  # pixels between the sizes that are tried; what a hand accepts is coarser
WINDOW = 2048  # rows, at least, among which those of one bucket are put together


@dataclass(frozen=True)
class Frames:
    """What a run's pictures are cut to."""

    sizes: tuple[Size, ...]  # from upright to wide
    upscale: bool = False  # whether a picture that is too small is enlarged, or is no use

    @staticmethod
    def of(hand: Hand, settings: Train) -> Frames:
        """All sizes near the area asked for that this hand accepts, one for each width, up to `max_aspect` : 1."""
        height, width = hand.default_size
        side = settings.size or round(math.sqrt(height * width))
        if settings.max_aspect == 1:
            square = (side, side) if settings.size else (height, width)
            hand.latent_shape(*square)  # says what it may be, if not this
            return Frames((square,), settings.upscale)
        found: dict[int, Size] = {}
        reach = math.sqrt(settings.max_aspect) * side
        for w in range(STEP * math.ceil(side * side / reach / STEP), int(reach) + 1, STEP):
            heights = sorted(range(STEP, int(reach) + 1, STEP), key=lambda h: abs(math.log(h * w / side**2)))
            fitting = (h for h in heights[:16] if max(h / w, w / h) <= settings.max_aspect and accepted(hand, h, w))
            if (best := next(fitting, None)) is not None:
                found[w] = (best, w)
        if not found:
            raise UserError(f"train.size: {side} given, and this hand has no size near {side}x{side}; its own is {height}x{width}")
        return Frames(tuple(found.values()), settings.upscale)

    def nearest(self, width: int, height: int) -> Size:
        """The bucket whose aspect ratio is the picture's, or nearly."""
        return min(self.sizes, key=lambda size: abs(math.log(size[0] * width / (size[1] * height))))

    def fit(self, image: Image.Image, size: Size) -> NDArray[np.uint8]:
        """Pixels [H, W, 3] of `size`: scaled until both sides are covered, cut at the centre."""
        height, width = size
        image = decoded(image, (width, height))
        if not self.upscale and (image.width < width or image.height < height):
            raise BadRow(
                f"the target has {image.width}x{image.height} pixels, fewer than the {width}x{height} it is trained at; "
                "lower train.size, or set train.upscale=true"
            )
        return np.asarray(cover(image, height, width))

    def cover(self, image: Image.Image, size: Size) -> NDArray[np.uint8]:
        """The same of a picture that may have too few pixels."""
        height, width = size
        return np.asarray(cover(decoded(image, (width, height)), height, width))


def window_steps(batch_size: int) -> int:
    """Steps whose rows are sorted by bucket together."""
    return max(4, -(-WINDOW // batch_size))


def group(sizes: Mapping[int, Size], frames: Frames, batch_size: int, seed: int) -> list[tuple[Size, Sequence[int]]]:
    """Rows of a window, with the height and width of each one's target -> steps of one bucket each, every row in one of them.

    Rows that do not fill a step of their own bucket share one with those of the next aspect ratios.
    """
    waiting: dict[Size, list[int]] = defaultdict(list)
    steps: list[tuple[Size, Sequence[int]]] = []
    for row, (height, width) in sizes.items():
        bucket = frames.nearest(width, height)
        waiting[bucket].append(row)
        if len(waiting[bucket]) == batch_size:
            steps.append((bucket, waiting.pop(bucket)))
    left = sorted((row for rows in waiting.values() for row in rows), key=lambda row: sizes[row][0] / sizes[row][1])
    for start in range(0, len(left), batch_size):
        rows = left[start : start + batch_size]
        height, width = sizes[rows[len(rows) // 2]]
        steps.append((frames.nearest(width, height), rows))
    return [steps[permute(k, len(steps), seed)] for k in range(len(steps))]
