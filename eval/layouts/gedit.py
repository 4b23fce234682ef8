"""GEdit-Bench: fullset/<task>/<language>/<key>.png, and the CSV files that its official script writes."""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key

_log = logging.getLogger(__name__)
_COLUMNS = ("edited_image", "instruction", "sementics_score", "quality_score", "intersection_exist", "instruction_language")
_WHAT = "MODEL_combined_gpt_score.csv of the official script, or the folder of the CSV files of its tasks"
_PLACE = re.compile(r"([^/\\]+)[/\\](en|cn)[/\\]([\w-]+)\.png$")


def _name(item: Item) -> str:
    return f"fullset/{item.group}/{item.want['language']}/{item.id}.png"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    layouts.export(rows, folder, _name)
    _log.warning(
        "%s has the edited pictures; the official script also wants each source as <key>_SRCIMG.png beside them, which "
        "generate_image_example.py of GEdit-Bench writes",
        folder,
    )


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    return layouts.pictures(items, folder, _name, "fullset/<task>/<language>/<key>.png")


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.glob("*_gpt_score.csv")) if not file.name.endswith("_combined_gpt_score.csv")]
    if not files:
        raise UserError(f"{path}: no *_gpt_score.csv there; give {_WHAT}")
    by_key = {(item.group, item.want["language"], item.id): item for item in items}
    found: dict[Key, dict[str, float]] = {}
    others = 0
    for file in files:
        reader = csv.DictReader(io.StringIO(store.read_text(file, f"give {_WHAT}"), newline=""))
        if lost := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise UserError(f"{file}: no column {', '.join(lost)}; give {_WHAT}")
        for row in reader:
            where = f"{file}: line {reader.line_num}"
            if (place := _PLACE.search(row["edited_image"] or "")) is None:
                raise UserError(f"{where}: edited_image: {row['edited_image']!r} given; it ends in <task>/<language>/<key>.png")
            if (item := by_key.get((place[1], place[2], place[3]))) is None:
                others += 1  # also the other language's
                continue
            if (row["instruction"] or "").strip() != item.text:
                raise UserError(f"{where}: {row['instruction']!r} is not the instruction of {item.id}, {item.text!r}")
            key = (item.group, item.id, 0)
            if key in found:
                raise UserError(f"{where}: {item.id} a second time; give the results of one run")
            found[key] = _values(row, item, where)
    if others:
        _log.info("%s: %d rows left out, of prompts that were not asked for", path, others)
    return [(key, values, "") for key, values in found.items()]


def _values(row: Mapping[str, str], item: Item, where: str) -> dict[str, float]:
    values = {}
    for name, column in (("semantics", "sementics_score"), ("quality", "quality_score")):
        try:
            values[name] = float(row[column])
        except (TypeError, ValueError):
            values[name] = math.nan
        if not 0 <= values[name] < math.inf:
            raise UserError(f"{where}: {column}: {row[column]!r} given; it is a number, 0 at least")
    overall = math.sqrt(values["semantics"] * values["quality"])
    inside = float(bool(item.want["intersection"]))
    return {**values, "overall": overall, "intersection": overall * inside, "intersection.of": inside}
