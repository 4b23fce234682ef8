"""A picture of any mode, held in any way -> upright, plain RGB of 8 bits: the same for the brain, the hand and the scorers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps

from metabridge.bridge.errors import UserError

# what Pillow raises of a damaged picture: its readers of EXIF and of chunks know no limit to kinds
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),
    *(struct.error, AttributeError, TypeError, LookupError, zlib.error),
)


@contextmanager
def readable(image: Image.Image) -> Iterator[None]:
    """A damaged picture is found out when its pixels are first asked for."""
    try:
        yield
    except UNREADABLE as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"image: a {image.width}x{image.height} picture of mode {image.mode} cannot be read ({line}); save it anew"
        ) from error


def upright(image: Image.Image) -> Image.Image:
    """As it is looked at: a camera that was held sideways says so beside the pixels."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def eight_bits(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something may be transparent."""
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16 bits of grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)  # which would copy


def on_white(image: Image.Image) -> Image.Image:
    """RGB or RGBA -> RGB, what is transparent lying on white."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
