"""JSON or JSONL files, a row an object; pictures are files beside them."""

from __future__ import annotations

import bisect
import json
from array import array
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.paths import find, picture_root
from metabridge.training.schema import BadRow, Raw

ENDINGS = (".jsonl", ".json")


@dataclass(frozen=True)
class Lines:
    """A file of which the rows stay on the disk."""

    path: Path
    starts: array[int]  # bytes

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Any:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.starts[row])
                return json.loads(file.readline())
        except OSError as error:
            raise BadRow(f"{self.path.name} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise BadRow(f"no valid JSON ({error})") from error


class JsonRows:
    """Rows of files, each of which is a block."""

    def __init__(self, files: list[tuple[Path, Lines | list[Any]]], root: Path | None) -> None:
        self.files, self.root = files, root
        self.blocks = [len(rows) for _, rows in files]
        self.ends = list(accumulate(self.blocks))

    def raw(self, index: int) -> Raw:
        number = bisect.bisect_right(self.ends, index)
        path, rows = self.files[number]
        place = index - (self.ends[number] - self.blocks[number])
        row = rows[place]
        if not isinstance(row, dict):
            raise BadRow("no JSON object")
        return Raw(row, f"{path.name}:{place + 1}", self.root or path.parent)


def load(path: str, files: str | None = None, root: str | None = None) -> JsonRows:
    """`files`: a pattern inside of the folder `path`; `root`: where relative paths of pictures start, in `path` if `files` is given;
    there, or beside the file, unless given."""
    found = find("data jsonl", path, files, ENDINGS)
    return JsonRows([(file, _rows(file)) for file in found], picture_root(path, files, root))


def _rows(file: Path) -> Lines | list[Any]:
    try:
        if file.suffix.lower() != ".json":
            return Lines(file, _line_starts(file))
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"data jsonl.path: {file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"data jsonl.path: {file}: no valid JSON ({error}); mend it, or write a row a line as .jsonl") from error
    if not isinstance(rows, list):
        raise UserError(f"data jsonl.path: {file}: holds no list of rows; write [{{...}}, {{...}}], or a row a line as .jsonl")
    return rows


def _line_starts(file: Path) -> array[int]:
    """Where each line with something on it begins."""
    starts, at = array("q"), 0
    with open(file, "rb") as lines:
        for line in lines:
            if line.strip():
                starts.append(at)
            at += len(line)
    return starts
