"""Files are whole or absent, and a PNG keeps what it is told."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from metabridge.bridge.files import png, write_whole


def test_a_write_that_fails_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_png_holds_texts_in_any_script() -> None:
    texts = {"prompt": "ein roter Stern", "thought": "赤い星 ★"}
    data = png(Image.new("RGB", (4, 4), "red"), texts)
    with Image.open(io.BytesIO(data)) as image:
        assert image.text == texts and image.getpixel((0, 0)) == (255, 0, 0)
