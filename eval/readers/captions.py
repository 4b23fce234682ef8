"""Captions of a set of pictures: what is drawn from them is measured against the pictures.

`mjhq`: meta_data.json, id -> {"category", "prompt"}; the category is the group.
`coco`: captions_val2014.json, COCO's own annotations; one caption a picture, of as many pictures as `sample` says.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item

log = logging.getLogger(__name__)

FILES = {"mjhq": "meta_data.json", "coco": "captions_val2014.json"}


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["format"]`: mjhq | coco; `pictures`: the folder of the reference pictures, which are missed early if they are not there."""
    asked = form.options(options, "prompts", format="", pictures="", sample=0)
    if (kind := asked["format"]) not in FILES:
        raise UserError(f"prompts.format: {unknown(kind, FILES, 'format')}")
    if data is None:
        raise UserError(f"captions: no data folder given; it holds {FILES[kind]}")
    path = data / FILES[kind]
    if not path.is_file():
        raise UserError(f"{path}: not there; it comes with the reference pictures, see `metabridge eval list` for where to get them")
    items = _mjhq(path) if kind == "mjhq" else _coco(path, asked["sample"])
    if asked["pictures"] and not (data / asked["pictures"]).is_dir():
        log.warning("%s is not there: FID cannot be scored without it, or --model reference=PATH", data / asked["pictures"])
    return items


def _mjhq(path: Path) -> list[Item]:
    rows = _tree(path)
    items = []
    for number, (key, row) in enumerate(rows.items()):
        where = f"{path}: {key}"
        if not re.fullmatch(r"[\w-]+", key):
            raise UserError(f"{where}: the id is no name for a file; it has letters, digits, _ and -")
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: {kind_of(row)} given; it is a mapping of category and prompt")
        items.append(Item(number, key, _text(row, "category", where), _text(row, "prompt", where), {}))
    return items


def _coco(path: Path, sample: Any) -> list[Item]:
    """Of each picture its first caption, by the annotations' ids; pictures in the order of their ids' hashes, which is nobody's choice."""
    rows = _tree(path).get("annotations")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no list of annotations; it is the captions file of COCO's annotations_trainval2014.zip")
    first: dict[int, tuple[int, str]] = {}
    for place, row in enumerate(rows):
        where = f"{path}: annotations.{place}"
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), int) for key in ("id", "image_id")):
            raise UserError(f"{where}: {kind_of(row)} given; it is a mapping of id, image_id and caption")
        picture, caption = row["image_id"], (row["id"], _text(row, "caption", where))
        first[picture] = min(first.get(picture, caption), caption)
    if not isinstance(sample, int) or isinstance(sample, bool) or not 1 <= sample <= len(first):
        raise UserError(f"prompts.sample: {sample!r} given; {path.name} has captions of {len(first)} pictures")
    chosen = sorted(first, key=lambda picture: hashlib.sha256(str(picture).encode()).digest())[:sample]
    return [Item(number, str(picture), "coco", first[picture][1], {}) for number, picture in enumerate(chosen)]


def _tree(path: Path) -> Mapping[str, Any]:
    tree = store.read_json(path)
    if not isinstance(tree, Mapping) or not tree:
        raise UserError(f"{path}: {kind_of(tree)} given; it is a mapping with something in it")
    return tree


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(row.get(key), str) or not row[key].strip():
        raise UserError(f"{where}: {key}: {kind_of(row.get(key))} given; it is text, and not blank")
    return " ".join(row[key].split())
