"""RISEBench's edits: a list of {"index", "category", "instruction", "image"} with what each is judged against.

Against `reference`, or `reference_txt` of logical edits: words for what a right result shows; against `reference_img`: a right picture,
which the judge then sees in the source's place. `reasoning_img`: the judge needs the source to tell. `consistency_free`: all may change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item
from metabridge.eval.readers.imgedit import refuse_missing

CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")
_FILE = "data_total.json"


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """The pictures lie below the data folder, as the list says."""
    asked = form.options(options, "prompts", file=_FILE)
    if data is None:
        raise UserError(f"rise: no data folder given; it holds {_FILE} and the folders of pictures that it names")
    path = data / asked["file"]
    rows = store.read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: {kind_of(rows)} given; it is a list of edits")
    has_free = any(isinstance(row, Mapping) and "consistency_free" in row for row in rows)  # then every row has it, in the official table
    items: list[Item] = []
    for place, row in enumerate(rows):
        item = _item(place, row, has_free, f"{path}: entry {place + 1}")
        if any(item.id == other.id for other in items):
            raise UserError(f"{path}: entry {place + 1}: index {item.id} is there already; remove one")
        items.append(item)
    refuse_missing(items, data, "put the folders of pictures beside the list")
    return items


def _item(number: int, row: Any, has_free: bool, where: str) -> Item:
    for name in ("index", "category", "instruction", "image"):
        if not isinstance(row, Mapping) or not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: no text in {name}; an edit has index, category, instruction, image and what it is judged against")
    if row["category"] not in CATEGORIES:
        raise UserError(f"{where}: {unknown(row['category'], CATEGORIES, 'category')}")
    if not re.fullmatch(r"[\w-]+", row["index"]):
        raise UserError(f"{where}: index {row['index']!r} is no name for a file; it has letters, digits, _ and -")
    given = {name: row.get(name) for name in ("reference", "reference_txt", "reference_img") if _there(row.get(name))}
    for name in (row["image"], given.get("reference_img", "")):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{where}: {name!r} leads out of the data folder")
    want: dict[str, Any] = {"calls": _calls(row, given, where)}
    if (words := given.get("reference_txt", given.get("reference"))) is not None:
        want["reference"] = words
    if _by_picture(row["category"], given):
        want["source"] = given["reference_img"]
    if has_free:
        want["consistency_free"] = True if _there(row.get("consistency_free")) else None
    return Item(number, row["index"], row["category"], row["instruction"].strip(), want, (row["image"],))


def _there(value: Any) -> bool:
    """As in a table: neither empty nor NaN."""
    return value is not None and value == value


def _by_picture(category: str, given: Mapping[str, Any]) -> bool:
    if category == "logical_reasoning":
        return "reference_img" in given and "reference_txt" not in given
    return category == "spatial_reasoning" and "reference_img" in given


def _calls(row: Mapping[str, Any], given: Mapping[str, Any], where: str) -> list[str]:
    """The questions of the scorer that the edit takes."""
    category, by_picture = row["category"], _by_picture(row["category"], given)
    if not by_picture and not ({"reference_txt"} if category == "logical_reasoning" else {"reference"}) & set(given):
        raise UserError(f"{where}: nothing to judge it against; {category} takes a reference")
    if category == "logical_reasoning":
        return ["consistency_logical_picture", "reasoning_logical_picture"] if by_picture else ["consistency_logical", "reasoning_logical"]
    consistency = [] if _there(row.get("consistency_free")) else ["consistency_picture" if by_picture else "consistency"]
    reasoning = "reasoning_picture" if by_picture else "reasoning_source" if _there(row.get("reasoning_img")) else "reasoning"
    return [*consistency, reasoning, "plausibility"]
