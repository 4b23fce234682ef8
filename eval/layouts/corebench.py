"""T2I-CoReBench's folder: <dimension>/<id>-<n>.png. Pictures are counted from 0 when written, and from 0 or 1 when read."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key

_log = logging.getLogger(__name__)


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    for item, k, file in rows:
        store.write(folder / item.group / f"{item.id}-{k}.png", layouts.png_of(file))


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    """Each item's pictures in the folder of one model, whoever drew them. They count from 0 if any has that number, else from 1."""
    by_id = {(item.group, item.id): item for item in items}
    found: dict[Key, Path] = {}
    for group in dict.fromkeys(item.group for item in items):
        for path in sorted((folder / group).glob("*.png")):
            match = re.fullmatch(r"(.+)-(\d+)", path.stem)
            if match is None or (group, match[1]) not in by_id:
                _log.info("%s: left out, it is no picture of a prompt that was asked for", path)
                continue
            key = (group, match[1], int(match[2]))
            if key in found:
                raise UserError(f"{path}: picture {key[2]} of {key[1]} a second time, {found[key].name} is it too; remove one")
            found[key] = path
    if not found:
        raise UserError(
            f"{folder}: no picture of {len(items)} prompts there; give the folder of one model, "
            f"which holds {items[0].group}/{items[0].id}-0.png and so on"
        )
    first = min(k for _, _, k in found)
    return {(group, key, k - min(first, 1)): path for (group, key, k), path in found.items()}
