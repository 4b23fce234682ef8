"""GenEval's folders: <number>/metadata.jsonl and <number>/samples/<k>.png, and the lines that its official scorer writes of them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key

_log = logging.getLogger(__name__)
_KEYS = "filename, tag, prompt, correct, reason"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    """Pictures (item, k, file) in the folders that the official scorer reads."""
    for item, k, file in rows:
        own = folder / f"{item.number:05d}"
        store.write(own / "samples" / f"{k:04d}.png", layouts.png_of(file))
        store.write(own / "metadata.jsonl", (json.dumps(metadata(item), ensure_ascii=False) + "\n").encode())


def metadata(item: Item) -> dict[str, Any]:
    """The line of the prompts file that the item came from."""
    return {"tag": item.group, **item.want, "prompt": item.text}


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    """Each item's pictures in such folders, whoever drew them; an item without a folder has none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_FORM}")
    folders = {int(path.name): path for path in sorted(folder.iterdir()) if path.name.isdecimal()}
    found: dict[Key, Path] = {}
    for item in items:
        if (own := folders.get(item.number)) is None:
            continue
        _refuse_other_prompt(own / "metadata.jsonl", item)
        for path in sorted((own / "samples").glob("*.png")):
            if not path.stem.isdecimal():
                _log.info("%s: left out, its name is no number", path)
                continue
            key = (item.group, item.id, int(path.stem))
            if key in found:
                raise UserError(f"{path}: picture {key[2]} of the prompt a second time, {found[key].name} is it too; remove one")
            found[key] = path
    if not found:
        raise UserError(f"{folder}: no picture of {len(items)} prompts there; {_FORM}")
    return found


_FORM = "give one that holds 00000/metadata.jsonl, 00000/samples/0000.png and so on"


def _refuse_other_prompt(path: Path, item: Item) -> None:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, "it says which prompt the pictures are of") from error
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: no mapping of tag, include, exclude and prompt; write the prompt's line of the prompts file there")
    wanted = metadata(item)
    if {key: given.get(key) for key in ("tag", "include", "exclude", "prompt")} != {"exclude": None, **wanted}:
        raise UserError(
            f"{path}: {given.get('prompt')!r} is not prompt {item.id}, {item.text!r}; "
            "pictures of other prompts are another benchmark, as geneval_long"
        )


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    """What the official scorer said of each picture: a line each of {"filename", "tag", "prompt", "correct", "reason", ...}."""
    by_number = {item.number: item for item in items}
    found: dict[Key, tuple[dict[str, float], str]] = {}
    others = 0
    for where, row in store.json_lines(path, _KEYS, "give the results.jsonl of the official scorer"):
        _check(row, where)
        number, k = _place(row["filename"], where)
        if (item := by_number.get(number)) is None:
            others += 1
            continue
        if (row["tag"], row["prompt"]) != (item.group, item.text):
            raise UserError(f"{where}: {row['prompt']!r} is not prompt {item.id}, {item.text!r}; give results of the same prompts")
        key = (item.group, item.id, k)
        if key in found:
            raise UserError(f"{where}: {row['filename']} a second time; give the results of one run")
        found[key] = ({"correct": float(row["correct"])}, row["reason"] or "")
    if others:
        _log.info("%s: %d lines left out, of prompts that were not asked for", path, others)
    return [(key, values, reason) for key, (values, reason) in found.items()]


def _check(row: Mapping[str, Any], where: str) -> None:
    for key in _KEYS.split(", "):
        if key not in row:
            raise UserError(f"{where}: no {key}; give the results.jsonl of the official scorer")
    if not isinstance(row["correct"], bool):
        raise UserError(f"{where}: correct: {row['correct']!r} given; it is true or false")


def _place(name: Any, where: str) -> tuple[int, int]:
    """The folder's and the picture's number."""
    match = re.search(r"(\d+)[/\\]samples[/\\](\d+)\.png$", str(name))
    if match is None:
        raise UserError(f"{where}: filename: {name!r} given; it ends in 00000/samples/0000.png")
    return int(match[1]), int(match[2])


def _unreadable(path: Path, error: Exception, advice: str) -> UserError:
    return UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {advice}")
