"""Pictures on their way to a judge: resized as the protocol says, named by their pixels, sent as PNG."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import lru_cache

from PIL import Image


def fitted(image: Image.Image, max_side: int | None) -> Image.Image:
    """RGB whose longer side is `max_side` at most, aspect kept; never enlarged."""
    image = image.convert("RGB")
    if max_side is None or max(image.size) <= max_side:
        return image
    scale = max_side / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def digest(image: Image.Image) -> str:
    """sha256 over size and pixels: the same for a picture and for its PNG, whoever wrote that."""
    return hashlib.sha256(f"{image.mode} {image.size}\n".encode() + image.tobytes()).hexdigest()


def data_uri(image: Image.Image) -> str:
    """An RGB picture as a base64 PNG, without whatever else its file held."""
    return _data_uri(image.size, image.tobytes())


@lru_cache(maxsize=16)  # a picture is asked about many times in a row
def _data_uri(size: tuple[int, int], pixels: bytes) -> str:
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
