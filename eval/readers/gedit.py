"""GEdit-Bench's prompts of one language, from the hub's Parquet files or from metadata.jsonl and pictures beside it.

Columns: key, task_type, instruction, instruction_language (en | cn), Intersection_exist, and the pictures: input_image_raw, which is
edited, and input_image, which the judge sees as the source. Parquet files (in the data folder or in its data/) are unpacked once into
images/ and metadata.jsonl, whose lines have paths in place of the pictures: `file_name` (to be edited) and, if it is another, `source`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.eval import store
from metabridge.eval.benchmarks import form
from metabridge.eval.items import Item
from metabridge.eval.readers.imgedit import refuse_missing

TASKS = (
    "background_change",
    "color_alter",
    "material_alter",
    "motion_change",
    "ps_human",
    "style_change",
    "subject-add",
    "subject-remove",
    "subject-replace",
    "text_change",
    "tone_transfer",
)
LANGUAGES = ("en", "cn")
_LIST = "metadata.jsonl"
_TEXTS = ("key", "task_type", "instruction", "instruction_language")
_KEYS = ", ".join((*_TEXTS, "file_name", "Intersection_exist"))
_PICTURES = {"input_image_raw": "", "input_image": "_SRCIMG"}  # column -> ending of its file's name: to be edited, shown to the judge


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options["language"]`: en or cn."""
    language = form.options(options, "prompts", language="")["language"]
    if language not in LANGUAGES:
        raise UserError(f"prompts.language: {unknown(str(language), LANGUAGES, 'language')}")
    if data is None:
        raise UserError(f"gedit: no data folder given; it holds the dataset's Parquet files, or {_LIST} and pictures")
    if not (data / _LIST).exists():
        _unpack(data)
    items: list[Item] = []
    seen: dict[str, str] = {}
    for where, row in store.json_lines(data / _LIST, _KEYS, "mend or remove it"):
        _check(row, where)
        if row["instruction_language"] != language:
            continue
        if row["key"] in seen:
            raise UserError(f"{where}: key {row['key']} is there already, {seen[row['key']]}; remove one")
        seen[row["key"]] = where
        items.append(_item(len(items), row))
    if not items:
        raise UserError(f"{data / _LIST}: no row of instruction_language {language}")
    refuse_missing(items, data, f"remove {_LIST} to unpack them again, or put them there")
    return items


def _item(number: int, row: Mapping[str, Any]) -> Item:
    want = {"intersection": row["Intersection_exist"], "language": row["instruction_language"]}
    if row.get("source"):
        want["source"] = row["source"]
    return Item(number, row["key"], row["task_type"], row["instruction"].strip(), want, (row["file_name"],))


def _check(row: Mapping[str, Any], where: str) -> None:
    for name in (*_TEXTS, "file_name"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: no text in {name}; a row has {_KEYS}")
    if not isinstance(row.get("Intersection_exist"), bool):
        raise UserError(f"{where}: Intersection_exist: {row.get('Intersection_exist')!r} given; it is true or false")
    if row["task_type"] not in TASKS:
        raise UserError(f"{where}: {unknown(row['task_type'], TASKS, 'task_type')}")
    if row["instruction_language"] not in LANGUAGES:
        raise UserError(f"{where}: {unknown(row['instruction_language'], LANGUAGES, 'language')}")
    if not re.fullmatch(r"[\w-]+", row["key"]):
        raise UserError(f"{where}: key {row['key']!r} is no name for a file; it has letters, digits, _ and -")
    for name in ("file_name", "source"):
        if row.get(name) and (Path(row[name]).is_absolute() or ".." in Path(row[name]).parts):
            raise UserError(f"{where}: {name} {row[name]!r} leads out of the data folder")


def _unpack(data: Path) -> None:
    """images/<language>/<key>.png and <key>_SRCIMG.png, then the list, so that a list has all its pictures."""
    files = sorted({*data.glob("*.parquet"), *(data / "data").glob("*.parquet")})
    if not files:
        raise UserError(f"{data}: neither {_LIST} nor Parquet files there; {_HOW}")
    lines = []
    for row, where in _parquet_rows(files):
        pictures = {
            f"images/{row['instruction_language']}/{row['key']}{ending}.png": row.pop(column) for column, ending in _PICTURES.items()
        }
        listed = {**row, **dict(zip(("file_name", "source"), pictures, strict=True))}
        _check(listed, where)  # before a key becomes a path
        for path, image in pictures.items():
            if not image or not image.get("bytes"):
                raise UserError(f"{where}: a picture without bytes; {_HOW}")
            store.write(data / path, image["bytes"])
        lines.append(json.dumps(listed, ensure_ascii=False) + "\n")
    store.write(data / _LIST, "".join(lines).encode())


_HOW = "get them with: hf download stepfun-ai/GEdit-Bench --repo-type dataset --local-dir FOLDER"


def _parquet_rows(files: list[Path]) -> Iterator[tuple[dict[str, Any], str]]:
    import pyarrow
    import pyarrow.parquet as parquet

    columns = [*_TEXTS, "Intersection_exist", *_PICTURES]
    for path in files:
        try:
            with parquet.ParquetFile(path) as file:
                if lost := [name for name in columns if name not in file.schema_arrow.names]:
                    raise UserError(f"{path}: no column {', '.join(lost)}; it has {', '.join(file.schema_arrow.names)}")
                number = 0
                for batch in file.iter_batches(batch_size=8, columns=columns):  # pictures: a few at a time
                    for row in batch.to_pylist():
                        number += 1
                        yield row, f"{path}: row {number}"
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())}); {_HOW}") from error
