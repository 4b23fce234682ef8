"""A folder of pictures with captions: NAME.txt beside each, captions.json, or metadata.jsonl / metadata.csv.

Metadata is as datasets' imagefolder has it: a file_name in each row. What says more stands above what says less: metadata, then
captions.json, then NAME.txt.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.paths import walk
from metabridge.training.schema import BadRow, Raw

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
METADATA = ("metadata.jsonl", "metadata.csv")
CAPTIONS = "captions.json"


class Pictures:
    """Rows of metadata in its order, then the other pictures by name."""

    def __init__(self, root: Path, rows: list[tuple[str, dict[str, Any] | str | None]]) -> None:
        self.root, self.rows, self.blocks = root, rows, [len(rows)]

    def raw(self, index: int) -> Raw:
        name, about = self.rows[index]  # about: its columns; or the file of its caption; or nothing
        if about is None:
            raise BadRow(f"{name} has no caption: no {Path(name).stem}.txt beside it, nor a row of metadata")
        if isinstance(about, str):
            try:
                about = {"text": (self.root / about).read_text(encoding="utf-8-sig")}
            except (OSError, ValueError) as error:
                raise BadRow(f"{about} cannot be read ({error})") from error
        return Raw(about | {"image": name}, name, self.root)


def load(path: str) -> Pictures:
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(f"data folder.path: {path or 'empty'}: no such folder; give one that holds pictures")
    files = [str(file.relative_to(root)) for file in walk(root)]
    pictures = [name for name in files if name.lower().endswith(PICTURES)]
    rows: list[tuple[str, dict[str, Any] | str | None]] = list(_metadata(root, files))
    mentioned = set(_names(about for _, about in rows)) | {name for name, _ in rows}
    captions, texts = _captions(root), {name.rsplit(".", 1)[0]: name for name in files if name.lower().endswith(".txt")}
    for name in pictures:
        if name not in mentioned:
            rows.append((name, {"text": captions[name]} if name in captions else texts.get(name.rsplit(".", 1)[0])))
    if not pictures:
        raise UserError(f"data folder.path: {root}: no pictures in it ({', '.join(PICTURES)}); give another folder")
    if all(about is None for _, about in rows):
        raise UserError(
            f"data folder.path: {root}: {len(pictures)} pictures and no captions; "
            "write NAME.txt beside each NAME.jpg, captions.json, or metadata.jsonl"
        )
    return Pictures(root, rows)


def _metadata(root: Path, files: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Picture and columns of every row of every metadata file. file_name is the picture, X_file_name one more, in a column X."""
    for name in files:
        if Path(name).name.lower() not in METADATA:
            continue
        folder = str(Path(name).parent)
        for number, row in enumerate(_read(root / name)):
            if not isinstance(row, Mapping) or not isinstance(row.get("file_name"), str):
                raise UserError(f"data folder.path: {root / name}: row {number + 1} names no picture; give each row a file_name")
            if None in row:  # where csv puts what is beyond the header
                raise UserError(f"data folder.path: {root / name}: row {number + 1} has too many cells; quote captions with commas")
            columns = {key: None if value == "" else value for key, value in row.items() if key != "file_name"}
            for key in [key for key in columns if key.endswith(("_file_name", "_file_names"))]:
                columns[key.rsplit("_file_name", 1)[0]] = columns.pop(key)
            yield _inside(row["file_name"], folder), _moved(columns, folder)


def _read(file: Path) -> list[Any]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                return list(csv.DictReader(lines))
            return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"data folder.path: {file}: cannot be read ({error}); mend it") from error


def _captions(root: Path) -> dict[str, Any]:
    """Picture -> its caption, or several."""
    if not (file := root / CAPTIONS).is_file():
        return {}
    try:
        captions = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"data folder.path: {file}: no valid JSON ({error}); mend it") from error
    if not isinstance(captions, dict):
        raise UserError(f'data folder.path: {file}: holds no object; write {{"cat.jpg": "a cat", ...}}')
    return {_inside(name, "."): caption for name, caption in captions.items()}


def _inside(name: str, folder: str) -> str:
    return str(Path(folder, name))


def _moved(value: Any, folder: str) -> Any:
    """Names of pictures, wherever they stand, as seen from the root."""
    if isinstance(value, str):
        return _inside(value, folder) if value.lower().endswith(PICTURES) else value
    if isinstance(value, list):
        return [_moved(entry, folder) for entry in value]
    return {key: _moved(entry, folder) for key, entry in value.items()} if isinstance(value, dict) else value


def _names(values: Any) -> Iterator[str]:
    """Every name of a picture in it."""
    if isinstance(values, str):
        if values.lower().endswith(PICTURES):
            yield values
    elif isinstance(values, Mapping):
        yield from _names(values.values())
    elif values is not None and not isinstance(values, int | float | bool):
        for value in values:
            yield from _names(value)
