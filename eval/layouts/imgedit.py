"""ImgEdit: a flat folder of <key>.png, and what its official scripts write: each key's answer, or its average."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key
from metabridge.eval.scorers.rubric_official import imgedit_average
from metabridge.eval.scorers.rubric_parse import reasoning

_log = logging.getLogger(__name__)
_WHAT = "the JSON of the official script: key -> the judge's answer, or key -> average"


def _name(item: Item) -> str:
    return f"{item.id}.png"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    layouts.export(rows, folder, _name)


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    return layouts.pictures(items, folder, _name, "<key>.png of each key of basic_edit.json")


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    """Answers are averaged as the official script does; one without a score, or an error in its place, is left out."""
    text = store.read_text(path, f"give {_WHAT}")
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: no valid JSON ({error}); give {_WHAT}") from error
    if not isinstance(rows, dict):
        raise UserError(f"{path}: no mapping of keys; give {_WHAT}")
    by_id = {item.id: item for item in items}
    found: list[tuple[Key, dict[str, float], str]] = []
    others, without = 0, []
    for key, said in rows.items():
        if (item := by_id.get(key)) is None:
            others += 1
        elif (average := _average(said)) is None:
            without.append(key)
        else:
            found.append(((item.group, item.id, 0), {"score": average}, reasoning(said) if isinstance(said, str) else ""))
    if others:
        _log.info("%s: %d keys left out, of prompts that were not asked for", path, others)
    if without:
        _log.warning("%s: %d keys without a score, as %s; they are unscored", path, len(without), ", ".join(without[:3]))
    return found


def _average(said: object) -> float | None:
    if isinstance(said, str):
        try:
            return imgedit_average(said)
        except ValueError:
            return None
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None
