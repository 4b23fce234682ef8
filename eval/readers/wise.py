"""WISE's prompts: lists of {"prompt_id", "Prompt", "Explanation", "Category", "Subcategory"}; the id says which group a prompt is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item

_CATEGORIES = {  # group -> what its prompts' Category says; one rewritten prompt of biology says Ecology
    "culture": ("Cultural knowledge",),
    "time": ("time",),
    "space": ("Space",),
    "biology": ("Biology", "Ecology"),
    "physics": ("Physical Knowledge",),
    "chemistry": ("Chemistry",),
}
_TEXTS = ("Prompt", "Explanation", "Category", "Subcategory")


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["files"]` in their order; `options["ids"]`: group -> its first and last id."""
    asked = form.options(options, "prompts", files=[], ids={})
    files, ids = asked["files"], asked["ids"]
    if not files or not all(isinstance(file, str) for file in files):
        raise UserError(f"prompts.files: {list(files)!r} given; it is a list of file names")
    for group, ends in ids.items():
        if group not in _CATEGORIES or not isinstance(ends, list) or [type(end) for end in ends] != [int, int]:
            raise UserError(f"prompts.ids.{group}: {ends!r} given; it is the first and the last id of one of: {', '.join(_CATEGORIES)}")
    if not ids:
        raise UserError("prompts.ids: missing; it is a mapping of groups to their first and last ids")
    if data is None:
        raise UserError(f"wise: no data folder given; it holds {', '.join(files)}")
    items: list[Item] = []
    seen: dict[str, str] = {}
    for file in files:
        rows = store.read_json(data / file)
        if not isinstance(rows, list):
            raise UserError(f"{data / file}: {kind_of(rows)} given; it is a list of prompts")
        for place, row in enumerate(rows):
            where = f"{data / file}: entry {place + 1}"
            item = _item(len(items), row, ids, where)
            if item.id in seen:
                raise UserError(f"{where}: prompt_id {item.id} is there already, {seen[item.id]}; fetch the benchmark's data again")
            seen[item.id] = where
            items.append(item)
    return items


def _item(number: int, row: Any, ids: Mapping[str, tuple[int, int]], where: str) -> Item:
    if not isinstance(row, Mapping):
        raise UserError(f"{where}: {kind_of(row)} given; it is a mapping of prompt_id, {', '.join(_TEXTS)}")
    for key in _TEXTS:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{where}: {key}: {kind_of(row.get(key))} given; it is text")
    prompt_id = row.get("prompt_id")
    if not isinstance(prompt_id, int) or isinstance(prompt_id, bool):
        raise UserError(f"{where}: prompt_id: {prompt_id!r} given; it is a whole number")
    group = next((group for group, (first, last) in ids.items() if first <= prompt_id <= last), None)
    if group is None:
        most = max(last for _, last in ids.values())
        raise UserError(f"{where}: prompt_id {prompt_id} is of no group; ids are 1 to {most}")
    if row["Category"] not in _CATEGORIES[group]:
        raise UserError(
            f"{where}: prompt_id {prompt_id} is of {group} by its number and of {row['Category']!r} by its category; "
            "legacy and verified prompts have other numbers, give the files of one of the two"
        )
    want = {"explanation": row["Explanation"].strip(), "subcategory": row["Subcategory"].strip()}
    return Item(number, str(prompt_id), group, row["Prompt"].strip(), want)
