"""Files are whole or absent, and a PNG keeps what it is told."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from metabridge.bridge.files import png, write_whole


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"newer")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_png_holds_texts_in_any_script() -> None:
    texts = {"prompt": "ein roter Stern", "thought": "赤い星 ★"}
    data = png(Image.new("RGB", (4, 4), "red"), texts)
    with Image.open(io.BytesIO(data)) as image:
        assert image.text == texts and image.getpixel((0, 0)) == (255, 0, 0)


def test_what_is_written_is_flushed_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the file, then its folder, after the rename."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "file").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(tmp_path / "file", b"data")
    assert synced == [(str(tmp_path / f".file.{os.getpid()}.tmp"), False), (str(tmp_path), True)]
