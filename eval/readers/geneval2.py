"""GenEval 2's prompts: a line each of {"prompt", "atom_count", "vqa_list": [[question, answer], ...], "skills": [of each question]}."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of, refuse_unknown
from metabridge.eval import store
from metabridge.eval.items import Item
from metabridge.eval.scorers.soft_tifa import ANSWERS

FILE = "geneval2_data.jsonl"


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    refuse_unknown(options, [], "prompts")
    if data is None:
        raise UserError(f"geneval2: no data folder given; it holds {FILE}")
    rows = store.json_lines(data / FILE, "prompt, atom_count, vqa_list and skills")
    return [_item(number, row, where) for number, (where, row) in enumerate(rows)]


def _item(number: int, row: Mapping[str, Any], where: str) -> Item:
    pairs, skills = row.get("vqa_list"), row.get("skills")
    if not isinstance(pairs, list) or not pairs or not isinstance(skills, list) or len(skills) != len(pairs):
        raise UserError(f"{where}: vqa_list and skills are lists of the same length, an entry a question")
    questions = [
        _question(pair, skill, f"{where}: question {place}") for place, (pair, skill) in enumerate(zip(pairs, skills, strict=True), 1)
    ]
    return Item(
        number, f"{number:04d}", f"atoms_{row.get('atom_count')}", _text(row.get("prompt"), f"{where}: prompt"), {"questions": questions}
    )


def _question(pair: Any, skill: Any, where: str) -> dict[str, Any]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise UserError(f"{where}: {pair!r} given; it is a question and its answer")
    if pair[1] not in ANSWERS:
        raise UserError(f"{where}: answer {pair[1]!r}; it is one of: {', '.join(ANSWERS)}")
    return {"text": _text(pair[0], where), "answer": pair[1], "facets": [_text(skill, f"{where}: skill")]}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {kind_of(value)} given; it is text")
    return value
