"""Files that are whole or absent, and pictures that say how they came about."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either what it was or all of `data`, whatever happens on the way."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """A PNG that holds `texts`, in any script, beside its pixels."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
