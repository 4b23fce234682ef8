"""Official folder layouts, one file a benchmark: pictures out, for the official scorer, and its results in.

Each has `export(rows, folder)` (rows: item, k, picture's path), `pictures(items, folder)` (who lies where in a folder of that layout, by
group, id and k) and, where the official scorer writes a file that is known, `results(path, items)` (key, values, reason).

Below is what they share, and all of those with one PNG a prompt, whose name is made of the item: no format of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.eval import store
from metabridge.eval.items import Item

Key = tuple[str, str, int]  # group, id, which of the prompt's pictures
Name = Callable[[Item], str]  # the path of an item's picture in the folder


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path, name: Name) -> None:
    if second := next((item for item, k, _ in rows if k), None):
        raise UserError(f"{second.id}: more than one picture; this layout has one a prompt, evaluate with --images 1")
    for item, _, file in rows:
        store.write(folder / name(item), png_of(file))


def pictures(items: Sequence[Item], folder: Path, name: Name, form: str) -> dict[Key, Path]:
    """Each item's picture there; an item without one has none. `form`: what such a folder holds, for who gave another."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds {form}")
    found = {(item.group, item.id, 0): folder / name(item) for item in items if (folder / name(item)).is_file()}
    if not found:
        raise UserError(f"{folder}: no picture of {len(items)} prompts there; give one that holds {form}")
    return found


def png_of(file: Path) -> bytes:
    """A picture as PNG, untouched where it is one: the official scorers look for nothing else."""
    try:
        if file.suffix.lower() == ".png":
            return file.read_bytes()
        with Image.open(file) as image:
            return png(image.convert("RGB"), {})
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error}); draw the picture again") from error
