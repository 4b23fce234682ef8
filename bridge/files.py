"""Files that are whole or absent, and pictures that say how they came about."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngInfo


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into: `path` is either what it was or all that was written, also after a crash of the machine."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    with whole(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine: a renamed file is there for good only then."""
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush a folder's files, as other libraries have written them, and their names."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """A PNG that holds `texts`, in any script, beside its pixels."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
