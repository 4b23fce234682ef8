"""Files that survive a kill at any moment: whole files by rename, records by appending lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import IO, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.reading import kind_of

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk or a folder without write permission is the user's to mend, and running again continues."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); make room there or give another folder with -o, "
            "then run the same command again: what is done stays done"
        ) from error


def write(path: Path, data: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)


def write_json(path: Path, tree: Any) -> None:
    write(path, (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); remove it and run again") from error


def read_text(path: Path, advice: str = "fetch the benchmark's data again") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {advice}") from error


def json_lines(path: Path, keys: str, advice: str = "fetch the benchmark's data again") -> list[tuple[str, dict[str, Any]]]:
    """Every line of a file that others wrote, an object of `keys` each, and how to name its place in an error."""
    return [(f"{path}: line {n}", _row(line, keys, f"{path}: line {n}")) for n, line in enumerate(_lines(read_text(path, advice)), start=1)]


def _lines(text: str) -> list[str]:
    """The last one may lack its end."""
    return text.rstrip("\n").split("\n")


def _row(line: str, keys: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: {kind_of(row)} given; it is a mapping of {keys}")
    return row


def append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A line each. The end of a line torn by a kill is cut off first, so that it cannot merge with what follows.

    Several processes and threads may append to one file: the lock makes a line that looks torn one that nobody is writing any more.
    """
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            lock(file)
            _cut_torn_line(file)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def lock(file: IO[bytes]) -> None:
    """Wait until nobody else has the file; closing it gives it back."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)


Kinds = Mapping[str, type | UnionType]  # key -> type of its value


def read(path: Path, kinds: Kinds | None = None) -> list[dict[str, Any]]:
    """All whole lines; none where the file is not there yet. A torn last line is ignored, any other bad line is an error."""
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); mend it, then run the same command again") from error
    records = []
    for number, line in enumerate(data[: _whole_lines(data)].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is no JSON; remove the line, then run the same command again") from error
        if odd := odd_in(records[-1], kinds or {}):
            raise UserError(f"{path}: line {number} is no record: {odd}; remove the line, then run the same command again")
    return records


def odd_in(tree: Any, kinds: Kinds) -> str:
    """What keeps a tree from being an object with values of these kinds; empty where nothing does."""
    if not isinstance(tree, dict):
        return f"it is {kind_of(tree)}"
    if lacking := next((key for key in kinds if key not in tree), None):
        return f"it has no {lacking}"
    wrong = next((key for key, kind in kinds.items() if not isinstance(tree[key], kind)), None)
    return f"its {wrong} is {kind_of(tree[wrong])}" if wrong else ""


def _cut_torn_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(_whole_lines(file.read()))


def _whole_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1
