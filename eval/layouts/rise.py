"""RISEBench: images/<category>/<index>.png. Its scorer writes a spreadsheet, which is not read here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key


def _name(item: Item) -> str:
    return f"images/{item.group}/{item.id}.png"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    layouts.export(rows, folder, _name)


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    return layouts.pictures(items, folder, _name, "images/<category>/<index>.png")


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    raise UserError(f"{path}: the official scorer of RISEBench writes a spreadsheet, which cannot be imported; score the pictures here")
