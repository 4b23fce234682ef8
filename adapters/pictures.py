"""A picture of any mode and size -> plain RGB that every family's processor takes."""

from __future__ import annotations

import logging
import math

from PIL import Image

from metabridge.bridge.pixels import eight_bits, on_white, readable, upright

log = logging.getLogger(__name__)

MAX_PIXELS = 1024 * 1024
MIN_SIDE = 32  # of the longer side: Mistral 3 fails on a picture that makes a single token
MIN_PIXELS = MIN_SIDE**2  # what max_pixels must leave of a picture
MAX_SIDE = 4  # times the side of a square of max_pixels: LLaVA-OneVision makes a square of each picture
MAX_ASPECT = 100  # Qwen-VL and GLM-V refuse more than 200, counted after roundings of their own


def plain(image: Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Upright RGB of at most `max_pixels`, aspect kept.

    What is transparent shows white, what is very thin gets white borders, what is tiny is enlarged.
    """
    with readable(image):
        return _bordered(on_white(_fitted(eight_bits(upright(image)), max_pixels)))


def fitted_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height, each at least 1, that have at most `max_pixels` also when borders come to them."""
    root = math.sqrt(max_pixels)
    scale = min(1.0, root / math.sqrt(width * height), MAX_SIDE * root / max(width, height))
    scale = max(scale, MIN_SIDE / max(width, height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _fitted(image: Image.Image, max_pixels: int) -> Image.Image:
    size = fitted_size(*image.size, max_pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _bordered(image: Image.Image) -> Image.Image:
    least = max(image.size) // MAX_ASPECT
    size = (max(image.width, least), max(image.height, least))
    if size == image.size:
        return image
    log.warning("a picture of %d x %d is too thin to be read as it is: white borders make it %d x %d", *image.size, *size)
    bordered = Image.new("RGB", size, "white")
    bordered.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return bordered
