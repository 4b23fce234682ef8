"""Sizes of pictures: which a hand takes, which of them is like a given one, and how a picture is cut to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Hand
from metabridge.bridge.pixels import eight_bits, on_white

Size = tuple[int, int]  # height, width
STEP = 8  # pixels between the sizes that are tried; what a hand accepts is coarser
REACH = 8  # steps to either side


def accepted(hand: Hand, height: int, width: int) -> bool:
    try:
        hand.latent_shape(height, width)
    except UserError:
        return False
    return True


def size_like(hand: Hand, picture: Image.Image) -> Size:
    """Height and width that the hand takes, of its own default area and nearly the picture's aspect ratio."""
    height, width = hand.default_size
    area, aspect = height * width, picture.height / picture.width
    h0, w0 = (round(side / STEP) for side in (math.sqrt(area * aspect), math.sqrt(area / aspect)))
    tried = [
        (STEP * h, STEP * w)
        for h in range(max(1, h0 - REACH), h0 + REACH + 1)
        for w in range(max(1, w0 - REACH), w0 + REACH + 1)
        if accepted(hand, STEP * h, STEP * w)
    ]
    # the aspect counts most: a picture whose sides are stretched is another picture
    return min(
        tried,
        key=lambda size: abs(math.log(size[0] / size[1] / aspect)) + abs(math.log(size[0] * size[1] / area)) / 4,
        default=(height, width),
    )


def cover(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Scaled until both sides are covered, cut at the centre."""
    return picture if picture.size == (width, height) else ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)


def stacked(pictures: Sequence[Image.Image], size: Size) -> Tensor:
    """Pictures of any mode and size -> [S, 3, H, W] in [-1, 1], all of one size."""
    height, width = size
    arrays = [np.asarray(cover(on_white(eight_bits(picture)), height, width)) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
