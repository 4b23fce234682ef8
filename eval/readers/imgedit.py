"""ImgEdit's basic prompts: key -> {"id": source picture, "prompt", "edit_type"}."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item

TYPES = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")
_OLD_NAMES = {"alter": "adjust"}  # in the first of the two lists that circulate
_FILE = "basic_edit.json"


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["pictures"]`: the folder, below the data folder, in which the sources lie as their ids say."""
    asked = form.options(options, "prompts", file=_FILE, pictures="")
    if data is None:
        raise UserError(f"imgedit: no data folder given; it holds {_FILE}, prompts.json and the source pictures")
    path = data / asked["file"]
    rows = store.read_json(path)
    if not isinstance(rows, Mapping):
        raise UserError(f"{path}: {kind_of(rows)} given; it is a mapping of keys to id, prompt and edit_type")
    items = [_item(number, key, row, asked["pictures"], f"{path}: {key}") for number, (key, row) in enumerate(rows.items())]
    refuse_missing(items, data, "unpack Benchmark.tar of the ImgEdit dataset there")
    return items


def _item(number: int, key: str, row: Any, folder: str, where: str) -> Item:
    if not re.fullmatch(r"[\w-]+", key):
        raise UserError(f"{where}: the key is no name for a file; it has letters, digits, _ and -")
    for name in ("id", "prompt", "edit_type"):
        if not isinstance(row, Mapping) or not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: no text in {name}; an entry is a mapping of id, prompt and edit_type")
    kind = _OLD_NAMES.get(row["edit_type"], row["edit_type"])
    if kind not in TYPES:
        raise UserError(f"{where}: {unknown(row['edit_type'], TYPES, 'edit_type')}")
    if Path(row["id"]).is_absolute() or ".." in Path(row["id"]).parts:
        raise UserError(f"{where}: id {row['id']!r} leads out of the folder of pictures")
    return Item(number, key, kind, row["prompt"].strip(), {}, (str(Path(folder) / row["id"]),))


def refuse_missing(items: Sequence[Item], data: Path, advice: str) -> None:
    """Every source picture is there and not empty, in one line what is not."""
    named = list(dict.fromkeys(name for item in items for name in (*item.images, *filter(None, [item.want.get("source")]))))
    missing = [name for name in named if not (data / name).is_file() or not (data / name).stat().st_size]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise UserError(f"{data}: {len(missing)} of {len(named)} source pictures are not there or empty: {shown}; {advice}")
