"""LongText-Bench's prompts: a line each of {"prompt_id", "category", "length", "prompt", "text": [...]}; the category is the group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item
from metabridge.eval.scorers.ocr import words

FILES = {"en": "text_prompts.jsonl", "zh": "text_prompts_zh.jsonl"}


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["language"]`: en | zh."""
    if (language := form.options(options, "prompts", language="en")["language"]) not in FILES:
        raise UserError(f"prompts.language: {unknown(str(language), FILES, 'language')}")
    if data is None:
        raise UserError(f"longtext: no data folder given; it holds {FILES[language]}")
    items: list[Item] = []
    there: dict[str, int] = {}
    for number, (where, row) in enumerate(store.json_lines(data / FILES[language], "prompt_id, category, length, prompt and text")):
        item = _item(number, row, language, where)
        if item.id in there:
            raise UserError(f"{where}: prompt_id {item.id} is that of line {there[item.id]}, too; give each its own")
        there[item.id] = number + 1
        items.append(item)
    return items


def _item(number: int, row: Mapping[str, Any], language: str, where: str) -> Item:
    for key in ("category", "prompt", "length"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: {key}: {kind_of(row.get(key))} given; it is text")
    ident, text = row.get("prompt_id"), row.get("text")
    if not isinstance(ident, int) or isinstance(ident, bool) or ident < 0:
        raise UserError(f"{where}: prompt_id: {ident!r} given; it is a whole number from 0")
    if not isinstance(text, list) or not all(isinstance(part, str) for part in text) or not words(" ".join(text), language):
        raise UserError(f"{where}: text: {kind_of(text)} given; it is a list of the texts to be read, with a word in it")
    return Item(number, str(ident), row["category"], row["prompt"], {"text": text, "language": language, "length": row["length"]})
