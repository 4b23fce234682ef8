"""A picture of any mode and size -> plain RGB that every family's processor takes."""

from __future__ import annotations

import logging
import math

import numpy as np
from PIL import ExifTags, Image, ImageOps

from metabridge.bridge.errors import UserError

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
    try:
        return _bordered(_on_white(_fitted(_eight_bits(_upright(image)), max_pixels)))
    except (OSError, SyntaxError, ValueError) as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"image: a {image.width}x{image.height} picture of mode {image.mode} cannot be read ({line}); save it anew"
        ) from error


def fitted_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height, each at least 1, that have at most `max_pixels` also when borders come to them."""
    root = math.sqrt(max_pixels)
    scale = min(1.0, root / math.sqrt(width * height), MAX_SIDE * root / max(width, height))
    scale = max(scale, MIN_SIDE / max(width, height))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _upright(image: Image.Image) -> Image.Image:
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something may be transparent."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _fitted(image: Image.Image, max_pixels: int) -> Image.Image:
    size = fitted_size(*image.size, max_pixels)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _bordered(image: Image.Image) -> Image.Image:
    least = max(image.size) // MAX_ASPECT
    size = (max(image.width, least), max(image.height, least))
    if size == image.size:
        return image
    log.warning("a picture of %d x %d is too thin to be read as it is: white borders make it %d x %d", *image.size, *size)
    bordered = Image.new("RGB", size, "white")
    bordered.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return bordered
