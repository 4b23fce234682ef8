"""GenEval's prompts: a line each of {"tag", "include", "exclude"?, "prompt"}. An item's id is the number of its official folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of, refuse_unknown
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item
from metabridge.eval.scorers.geneval_rules import COLORS, RELATIONS, TAGS

CLASSES = "object_names.txt"
_FILE = "evaluation_metadata.jsonl"
_KEYS = "tag, include, exclude and prompt"


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["file"]`: another file of the same form, as that of rewritten prompts."""
    asked, classes = form.options(options, "prompts", file=_FILE), class_names(data)
    path = _folder(data) / asked["file"]
    return [_item(number, row, classes, where) for number, (where, row) in enumerate(store.json_lines(path, _KEYS))]


def class_names(data: Path | None) -> list[str]:
    """The 80 classes in the order of a COCO detector's outputs, by GenEval's names for them."""
    return [line.strip() for line in store.read_text(_folder(data) / CLASSES).splitlines() if line.strip()]


def _folder(data: Path | None) -> Path:
    if data is None:
        raise UserError(f"geneval: no data folder given; it holds {_FILE} and {CLASSES}")
    return data


def _item(number: int, row: Mapping[str, Any], classes: Sequence[str], where: str) -> Item:
    refuse_unknown(row, ["tag", "include", "exclude", "prompt"], where)
    _one_of(row.get("tag"), TAGS, f"{where}: tag")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise UserError(f"{where}: prompt: {kind_of(row.get('prompt'))} given; it is text")
    want = {key: row[key] for key in ("include", "exclude") if key in row}
    for key, clauses in want.items():
        if not isinstance(clauses, list):
            raise UserError(f"{where}: {key}: {kind_of(clauses)} given; it is a list of clauses")
        for place, clause in enumerate(clauses):
            _check(clause, key, place, classes, f"{where}: {key} {place}")
    if not any(want.values()):
        raise UserError(f"{where}: no clause in include or exclude; every picture would be right")
    return Item(number, f"{number:05d}", row["tag"], row["prompt"], want)


def _check(clause: Any, key: str, place: int, classes: Sequence[str], where: str) -> None:
    if not isinstance(clause, Mapping):
        raise UserError(f"{where}: {kind_of(clause)} given; it is a mapping with class and count")
    refuse_unknown(clause, ["class", "count", *(["color", "position"] if key == "include" else [])], where)
    _one_of(clause.get("class"), classes, f"{where}: class")
    count = clause.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"{where}: count: {count!r} given; it is a whole number, 1 at least")
    if "color" in clause:
        _one_of(clause["color"], COLORS, f"{where}: color")
    if "position" in clause:
        position = clause["position"]
        if not isinstance(position, list) or len(position) != 2 or position[1] not in range(place):
            raise UserError(f"{where}: position: {position!r} given; it is a relation and the number of an earlier clause, from 0")
        _one_of(position[0], RELATIONS, f"{where}: position")


def _one_of(value: Any, known: Sequence[str], where: str) -> None:
    if value not in known:
        raise UserError(f"{where}: {unknown(str(value), known, 'value')}")
