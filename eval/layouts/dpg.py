"""DPG-Bench's folder: a grid of 2 x 2 square pictures a prompt, <item_id>.png, in the order left to right, then down."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png
from metabridge.eval import store
from metabridge.eval.items import Item

_log = logging.getLogger(__name__)

TILES = 4
CUT = "cut.json"  # beside the tiles: which file each was cut from, by size and time

Key = tuple[str, str, int]  # group, id, which of the prompt's pictures


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    """Pictures (item, k, file) as the grids that the official scorer cuts; its `--resolution` is the side of one picture."""
    files: dict[str, dict[int, Path]] = {}
    for item, k, file in rows:
        files.setdefault(item.id, {})[k] = file
    if short := [key for key, own in files.items() if sorted(own) != list(range(TILES))]:
        raise UserError(
            f"{short[0]}: pictures {', '.join(map(str, sorted(files[short[0]])))} given; a grid holds {TILES}, from 0 to {TILES - 1}: "
            f"draw {TILES} of each prompt"
        )
    side = 0  # the same in every grid: the official scorer is told it once
    for key, own in files.items():
        tiles = [_open(own[k]) for k in range(TILES)]
        side = side or tiles[0].width
        for k, tile in enumerate(tiles):
            if tile.size != (side, side):
                raise UserError(f"{own[k]}: {tile.width}x{tile.height}; the pictures of all grids are squares of one size")
        grid = Image.new("RGB", (2 * side, 2 * side))
        for k, tile in enumerate(tiles):
            grid.paste(tile, _corner(k, side))
        store.write(folder / f"{key}.png", png(grid, {}))


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    """Each item's pictures, cut out of its grid; a prompt without a grid has none.

    The cut pictures are kept beside the folder, in FOLDER-tiles, so that a folder for the official scorer holds grids alone. A grid that
    has changed is cut anew.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one that holds a grid a prompt, as {items[0].id}.png")
    grids = {item.id: folder / f"{item.id}.png" for item in items if (folder / f"{item.id}.png").exists()}
    if not grids:
        raise UserError(f"{folder}: no grid of {len(items)} prompts there; give a folder that holds one each, as {items[0].id}.png")
    tiles = folder.resolve().parent / f"{folder.resolve().name}-tiles"
    done: dict[str, list[int]] = store.read_json(tiles / CUT) if (tiles / CUT).exists() else {}
    cut = 0
    for key, grid in grids.items():
        stamp = [grid.stat().st_size, grid.stat().st_mtime_ns]
        if done.get(key) != stamp or not all((tiles / f"{key}-{k}.png").exists() for k in range(TILES)):
            _cut(grid, key, tiles)
            done[key], cut = stamp, cut + 1
    if cut:  # whoever drew a single picture a prompt, under the same name, must hear of it
        _log.warning("%s: %d pictures taken for grids of 2 x 2, and cut into %s", folder, cut, tiles)
        store.write_json(tiles / CUT, done)
    return {(item.group, item.id, k): tiles / f"{item.id}-{k}.png" for item in items if item.id in grids for k in range(TILES)}


def _cut(grid: Path, key: str, tiles: Path) -> None:
    image = _open(grid)
    side = image.width // 2
    if not side or image.size != (2 * side, 2 * side):
        raise UserError(f"{grid}: {image.width}x{image.height}; a grid of 2 x 2 squares has an even side, and is as high as wide")
    for k in range(TILES):
        x, y = _corner(k, side)
        store.write(tiles / f"{key}-{k}.png", png(image.crop((x, y, x + side, y + side)), {}))


def _corner(k: int, side: int) -> tuple[int, int]:
    return k % 2 * side, k // 2 * side


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's readers raise all of these of a damaged file
        raise UserError(f"{path}: no picture that can be read ({getattr(error, 'strerror', None) or error}); draw it again") from error
