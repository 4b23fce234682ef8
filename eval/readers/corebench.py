"""T2I-CoReBench's prompts: a file a dimension, id -> {"Main Class", "Sub Class", "Prompt", "Checklist": [{"question", "tags"}]}."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of, refuse_unknown
from metabridge.eval import store
from metabridge.eval.items import Item

DIMENSIONS = ("C-MI", "C-MA", "C-MR", "C-TR", "R-LR", "R-BR", "R-HR", "R-PR", "R-GR", "R-AR", "R-CR", "R-RR")


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    refuse_unknown(options, [], "prompts")
    if data is None:
        raise UserError(f"corebench: no data folder given; it holds {', '.join(f'{name}.json' for name in DIMENSIONS)}")
    rows = [(name, key, row) for name in DIMENSIONS for key, row in _file(data / f"{name}.json").items()]
    return [_item(number, name, key, row, f"{data / name}.json: {key}") for number, (name, key, row) in enumerate(rows)]


def _file(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(store.read_text(path), object_pairs_hook=lambda pairs: _once(pairs, path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}: no valid JSON ({error.msg})") from error
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{path}: {kind_of(tree)} given; it is a mapping of ids to prompts")
    return tree


def _once(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{path}: {next(name for name in names if names.count(name) > 1)} is there twice")
    return tree


def _item(number: int, dimension: str, key: str, row: Any, where: str) -> Item:
    if not re.fullmatch(rf"{dimension}-\d+", key):
        raise UserError(f"{where}: it is {dimension}- and a number")
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {kind_of(row)} given; it is a mapping with Prompt and Checklist")
    questions = row.get("Checklist")
    if not isinstance(questions, list) or not questions:
        given = "an empty list" if questions == [] else kind_of(questions)
        raise UserError(f"{where}: Checklist: {given} given; it is a list of questions")
    want = {"questions": [_question(place, one, f"{where}: question {place}") for place, one in enumerate(questions, start=1)]}
    return Item(number, key, dimension, _words(row.get("Prompt"), f"{where}: Prompt"), want)


def _question(place: int, row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {kind_of(row)} given; it is a mapping with question and tags")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"{where}: tags: {tags!r} given; it is a list of text")
    return {"id": place, "text": _words(row.get("question"), f"{where}: question"), "facets": tags}


def _words(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {'blanks' if isinstance(value, str) else kind_of(value)} given; it is text")
    return value
