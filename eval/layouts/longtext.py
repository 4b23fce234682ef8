"""LongText-Bench's folder: <prompt_id>_<k>.png, all in one, and the lines that its official scorer writes of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import layouts, store
from metabridge.eval.items import Item
from metabridge.eval.layouts import Key
from metabridge.eval.scorers.ocr import verdict

_log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d+)(?:_(\d+))?\.png")
_FORM = "pictures are named 0_0.png, 0_1.png and so on: prompt_id, then which of its pictures; 0.png where a prompt has one"


def export(rows: Sequence[tuple[Item, int, Path]], folder: Path) -> None:
    """Pictures (item, k, file) under the names that the official scorer reads."""
    for item, k, file in rows:
        store.write(folder / f"{item.id}_{k}.png", layouts.png_of(file))


def pictures(items: Sequence[Item], folder: Path) -> dict[Key, Path]:
    """Each item's pictures in such a folder, whoever drew them."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {_FORM}")
    paths = sorted(folder.glob("*.png"))
    found: dict[Key, Path] = {}
    for path, key in zip(paths, _keys([path.name for path in paths], items, str(folder)), strict=True):
        if key is None:
            continue
        if key in found:
            raise UserError(f"{path}: picture {key[2]} of prompt {key[1]} a second time, {found[key].name} is it too; remove one")
        found[key] = path
    if not found:
        raise UserError(f"{folder}: no picture of {len(items)} prompts there; {_FORM}")
    return found


def _keys(names: Iterable[str], items: Sequence[Item], where: str) -> list[Key | None]:
    """Of each file's name; None for other prompts' pictures. Who counts a prompt's pictures from 1 does so in the whole folder."""
    places: list[tuple[str, int]] = []
    for name in names:
        if (match := _NAME.fullmatch(name)) is None:
            raise UserError(f"{where}: {name}: no name of a picture; {_FORM}")
        places.append((str(int(match[1])), int(match[2] or 0)))
    by_id = {item.id: item for item in items}
    first = min((k for _, k in places), default=0)
    keys = [(by_id[ident].group, ident, k - first) if ident in by_id else None for ident, k in places]
    if others := keys.count(None):
        _log.info("%s: %d pictures left out, of prompts that were not asked for", where, others)
    return keys


def results(path: Path, items: Sequence[Item]) -> list[tuple[Key, dict[str, float], str]]:
    """What the official scorer read, a line each of {"image", "ocr_gt", "ocr_results"}, counted as it counts.

    `path` is its results file, or the folder with it or with the parts that each of its processes wrote.
    """
    read = [line for file in _files(path) for line in _lines(file)]
    keys = _keys([Path(row["image"]).name for _, row in read], items, str(path))
    by_key = {(item.group, item.id): item for item in items}
    found: dict[Key, tuple[dict[str, float], str]] = {}
    for (where, row), key in zip(read, keys, strict=True):
        if key is None:
            continue
        item = by_key[key[:2]]
        if row["ocr_gt"] != item.want["text"]:
            raise UserError(f"{where}: other texts than those of prompt {item.id}; give results of the same prompts and language")
        if key in found:
            raise UserError(f"{where}: {row['image']} a second time; give the results of one run")
        said = verdict(item, row["ocr_results"], {})
        found[key] = (dict(said.values), said.reason)
    return [(key, values, reason) for key, (values, reason) in found.items()]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    whole = path / "results.jsonl"
    files = [whole] if whole.exists() else sorted(path.glob("results_chunk*.jsonl"))
    if not files:
        raise UserError(f"{path}: neither results.jsonl nor results_chunk0.jsonl there; give the output of the official scorer")
    return files


def _lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    lines = store.json_lines(file, "image, ocr_gt and ocr_results", "give the results.jsonl of the official scorer")
    for where, row in lines:
        for key, kind in (("image", str), ("ocr_gt", list), ("ocr_results", str)):
            if not isinstance(row.get(key), kind):
                raise UserError(f"{where}: no {key}; give the results.jsonl of the official scorer")
    return lines
