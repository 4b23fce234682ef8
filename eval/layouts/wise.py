"""WISE: a flat folder of <prompt_id>.png, and the lines of scores that its official scripts write."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key

_log = logging.getLogger(__name__)
LEGACY = ("consistency", "realism", "aesthetic_quality")
_WHAT = "a file or the folder of *_scores_results.jsonl that the official script writes"


def _name(item: Item) -> str:
    return f"{item.id}.png"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    layouts.export(rows, folder, _name)


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    return layouts.pictures(items, folder, _name, "1.png, 2.png and so on")


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    """Of a line each of {"prompt_id", "Subcategory", ...} with three scores (legacy) or one (verified)."""
    files = sorted(path.glob("*results.jsonl")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: no *results.jsonl there; give {_WHAT}")
    by_id = {int(item.id): item for item in items}
    found: dict[Key, dict[str, float]] = {}
    others = 0
    for file in files:
        for where, row in store.json_lines(file, "prompt_id, Subcategory and scores", f"give {_WHAT}"):
            if not isinstance(row.get("prompt_id"), int) or not isinstance(row.get("Subcategory"), str):
                raise UserError(f"{where}: no prompt_id or Subcategory; give {_WHAT}")
            if (item := by_id.get(row["prompt_id"])) is None:
                others += 1
                continue
            if row["Subcategory"].strip() != item.want["subcategory"]:
                raise UserError(
                    f"{where}: prompt {item.id} is of {row['Subcategory']!r} there and of {item.want['subcategory']!r} here; "
                    "wise, wise_rewrite and wise_verified have other prompts under the same ids, import results of the same one"
                )
            key = (item.group, item.id, 0)
            if key in found:
                raise UserError(f"{where}: prompt_id {item.id} a second time; give the results of one run")
            found[key] = _values(row, where)
    if others:
        _log.info("%s: %d lines left out, of prompts that were not asked for", path, others)
    return [(key, values, "") for key, values in found.items()]


def _values(row: Mapping[str, Any], where: str) -> dict[str, float]:
    names = ("score",) if "score" in row else LEGACY
    for name in names:
        if isinstance(row.get(name), bool) or not isinstance(row.get(name), int | float):
            raise UserError(f"{where}: {name}: {row.get(name)!r} given; it is a number")
    values = {name: float(row[name]) for name in names}
    if names == LEGACY:
        values["wiscore"] = (0.7 * values["consistency"] + 0.2 * values["realism"] + 0.1 * values["aesthetic_quality"]) / 2
    return values
