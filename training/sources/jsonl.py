"""A JSON or JSONL file, a row an object; pictures are files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.schema import BadRow, Raw


class JsonRows:
    def __init__(self, path: Path, root: Path, offsets: list[int] | None, rows: list[Any]) -> None:
        self.path, self.root, self.offsets, self.held = path, root, offsets, rows
        self.blocks = [len(rows) if offsets is None else len(offsets)]

    def raw(self, index: int) -> Raw:
        where = f"{self.path.name}:{index + 1}"
        if self.offsets is None:
            row = self.held[index]
        else:
            with open(self.path, "rb") as file:
                file.seek(self.offsets[index])
                line = file.readline()
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadRow(f"no valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadRow("no JSON object")
        return Raw(row, where, self.root)


def load(path: str, root: str | None = None) -> JsonRows:
    """`root`: where the relative paths of pictures start; the file's folder unless given."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"data jsonl.path: {file}: no such file; give a .jsonl or .json")
    base = Path(root).expanduser() if root else file.parent
    if file.suffix == ".json":
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"data jsonl.path: {file}: no valid JSON ({error}); mend it, or write a row a line as .jsonl") from error
        if not isinstance(rows, list):
            raise UserError(f"data jsonl.path: {file}: holds no list of rows; write [{{...}}, {{...}}], or a row a line as .jsonl")
        return JsonRows(file, base, None, rows)
    return JsonRows(file, base, _line_starts(file), [])


def _line_starts(file: Path) -> list[int]:
    """Where each line with something on it begins: the rows stay on the disk."""
    starts, at = [], 0
    with open(file, "rb") as lines:
        for line in lines:
            if line.strip():
                starts.append(at)
            at += len(line)
    return starts
