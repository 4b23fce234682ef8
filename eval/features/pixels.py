"""Pictures at a network's size: as torchvision's Resize and CenterCrop do it on PIL pictures, and as TensorFlow 1 did it in the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def read(path: Path, what: str) -> Image.Image:
    """A picture of a data folder; `what` it is, for who has to mend it."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: {what} that cannot be read ({' '.join(str(error).split())}); put it there again") from error


def short_side(image: Image.Image, side: int) -> Image.Image:
    """The short side of this length: bicubic, with antialias, in 8 bits. The long one is rounded down."""
    short = min(image.size)
    return image.resize((int(side * image.width / short), int(side * image.height / short)), Image.Resampling.BICUBIC)


def middle(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle."""
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def tensor(image: Image.Image) -> Tensor:
    """[3, H, W] float32 in 0..255"""
    import torch

    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)


def tf1_bilinear(pixels: Tensor, side: int) -> Tensor:
    """[C, H, W] -> [C, side, side]. Pixel i is taken at i * old / new, with no half pixel and no antialias, as in TensorFlow 1."""
    for axis in (2, 1):
        low, high, part = _places(pixels.shape[axis], side, pixels)
        first, second = pixels.index_select(axis, low), pixels.index_select(axis, high)
        pixels = first + (second - first) * (part if axis == 2 else part[:, None])
    return pixels


def _places(old: int, new: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels that each new one lies between, and how far from the first."""
    import torch

    at = torch.arange(new, device=like.device) * (old / new)
    low = at.floor().long()
    return low, (low + 1).clamp(max=old - 1), (at - low).to(like.dtype)
