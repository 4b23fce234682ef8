"""Where the members of a tar lie, so that any row can be read without unpacking. The headers are read once, and what was found is kept:

shard-000000.tar.index   beside the tar, or in ~/.cache/metabridge where that folder cannot be written
    a line of JSON (what it is of, how many rows, the extensions), padded to 8 bytes; then whole numbers of 8 bytes each:
    rows + 1 of where the members of a row begin, rows + 1 of where its key begins, (extension, offset, size) of each member; then the keys
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.training.schema import BadRow

log = logging.getLogger(__name__)

VERSION = 1
BLOCK = 512
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # key, extension: the base name is parted at its first dot
COMPRESSED = {
    b"\x1f\x8b\x08": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}  # first bytes -> what undoes it


@dataclass(frozen=True)
class Tar:
    """A tar of which the members are known."""

    path: Path
    size: int
    mtime: int  # nanoseconds
    rows: int
    names: tuple[str, ...]  # extensions
    damage: str  # what is wrong with it; "" where nothing is
    index: Path | None = None  # where the rest of the index is kept; None where it could not be


class Damaged(Exception):
    """What is wrong with a tar from some byte on."""


def tar(path: Path) -> Tar:
    """From its index, where there is one that still holds; else from its headers."""
    try:
        stat = path.stat()
        for index in _places(path):
            if (known := _kept(path, index, stat)) is not None:
                break
        else:
            known = _indexed(path)
    except OSError as error:
        raise UserError(f"data webdataset.path: {path}: cannot be read ({error.strerror})") from error
    if known.damage:
        log.warning("%s: %s; its %d whole rows are used", path, known.damage, known.rows)
    return known


class Opened:
    """A tar from which rows are read. Any number of threads may."""

    def __init__(self, known: Tar) -> None:
        stat = known.path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (known.size, known.mtime):
            raise UserError(f"data webdataset: {known.path} has changed since it was opened; begin again")
        self.path, self.names = known.path, known.names
        self.file = os.open(known.path, os.O_RDONLY)
        data = np.asarray(np.memmap(known.index, np.uint8, "r")) if known.index else np.frombuffer(_content(known.path)[1], np.uint8)
        rest = data[_header_length(data) :]
        ends = 8 * (known.rows + 1)
        self.starts, self.key_starts = rest[:ends].view(np.int64), rest[ends : 2 * ends].view(np.int64)
        members = 2 * ends + 24 * int(self.starts[-1])
        self.members, self.keys = rest[2 * ends : members].view(np.int64).reshape(-1, 3), rest[members:]

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)

    def key(self, row: int) -> str:
        return bytes(self.keys[self.key_starts[row] : self.key_starts[row + 1]]).decode("utf-8", "surrogateescape")

    def places(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension -> offset and size."""
        found: list[list[int]] = self.members[self.starts[row] : self.starts[row + 1]].tolist()
        return {self.names[name]: (offset, size) for name, offset, size in found}

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.file, size, offset)
        if len(data) != size:
            raise BadRow(f"{self.path.name} ends in the middle of it")
        return data


@lru_cache(maxsize=32)  # a few times as many as are shuffled together
def opened(known: Tar) -> Opened:
    return Opened(known)


@dataclass(frozen=True)
class Member:
    """A file in a tar."""

    name: str
    begin: int  # of its headers
    offset: int  # of its content
    size: int

    def parts(self) -> tuple[str, str] | None:
        """Key and extension; None of what has no extension, or is hidden, and so belongs to no row."""
        match = NAME.fullmatch(self.name)
        return None if match is None else (match[1], match[2].lower())


def members(file: BinaryIO, size: int, at: int = 0) -> Iterator[Member]:
    """Every file in a tar from byte `at` on, in order, from the headers alone; Damaged where they end before the tar should."""
    file.seek(at)
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                if info.offset_data + info.size > size:
                    raise Damaged(f"cut short, at byte {size:,} in the middle of {info.name}")
                if info.isreg():
                    yield Member(info.name, info.offset, info.offset_data, info.size)
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            end = tar.offset
    except tarfile.ReadError as error:
        raise Damaged(f"cut short, at byte {size:,} ({error})") from error
    file.seek(end)  # tarfile takes whatever is no header for the end
    mark = file.read(BLOCK) if end < size else b""
    if len(mark) < BLOCK:
        raise Damaged(f"no end mark: cut short at byte {size:,}, or never closed")
    if any(mark):
        raise Damaged(f"no tar header at byte {end:,}")


def _places(path: Path) -> list[Path]:
    """Where an index may be kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metabridge" / "tars"
    return [path.with_name(f"{path.name}.index"), cache / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.index"]


def _kept(path: Path, index: Path, stat: os.stat_result) -> Tar | None:
    """The tar as its index describes it; None where there is no index, or it is of another file."""
    try:
        with open(index, "rb") as file:
            head: dict[str, Any] = json.loads(file.readline())
            length = file.tell() + head["bytes"]
        if (head["version"], head["size"], head["mtime"]) != (VERSION, stat.st_size, stat.st_mtime_ns) or length != index.stat().st_size:
            return None
        return _described(path, head, index)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _described(path: Path, head: dict[str, Any], index: Path | None) -> Tar:
    return Tar(path, head["size"], head["mtime"], head["rows"], tuple(head["names"]), head["damage"], index)


def _indexed(path: Path) -> Tar:
    head, content = _content(path)
    for index in _places(path):
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            write_whole(index, content)
        except OSError:
            continue
        return _described(path, head, index)
    log.warning("%s: its index can be kept neither beside it nor in %s, so its headers are read anew each time", path, index.parent)
    return _described(path, head, None)


def _content(path: Path) -> tuple[dict[str, Any], bytes]:
    """What an index file holds: its first line as an object, and all of it."""
    rows, damage, stat = _rows(path)
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    number = {name: k for k, name in enumerate(names)}
    places = [(number[name], offset, size) for row in rows.values() for name, (offset, size) in row.items()]
    keys = [key.encode("utf-8", "surrogateescape") for key in rows]
    starts = [0, *accumulate(len(row) for row in rows.values())]
    key_starts = [0, *accumulate(len(key) for key in keys)]
    numbers = b"".join(np.array(part, np.int64).tobytes() for part in (starts, key_starts, places))
    rest = numbers + b"".join(keys)
    head: dict[str, Any] = {"version": VERSION, "size": stat.st_size, "mtime": stat.st_mtime_ns, "rows": len(rows), "bytes": len(rest)}
    head |= {"names": names, "damage": damage}
    line = json.dumps(head).encode()
    return head, line + b" " * (-(len(line) + 1) % 8) + b"\n" + rest


def _header_length(data: np.ndarray[Any, Any]) -> int:
    return int(np.argmax(data == ord("\n"))) + 1


def _rows(path: Path) -> tuple[dict[str, dict[str, tuple[int, int]]], str, os.stat_result]:
    """Key -> extension -> place; and what is wrong with the tar."""
    rows: dict[str, dict[str, tuple[int, int]]] = {}
    twice, damage, key = 0, "", ""
    with open(path, "rb", buffering=0) as file:  # of a header every few megabytes
        stat = os.fstat(file.fileno())
        refuse_others(str(path), file.read(BLOCK))
        try:
            for member in members(file, stat.st_size):
                if (parts := member.parts()) is None:
                    continue
                key, extension = parts
                twice += extension in rows.setdefault(key, {})
                rows[key].setdefault(extension, (member.offset, member.size))
        except Damaged as error:
            damage = str(error)
            others = {frozenset(row) for other, row in rows.items() if other != key}
            if rows and frozenset(rows[key]) not in others:
                del rows[key]  # the rest of it may have been cut off
    if twice:
        damage += f"{'; ' if damage else ''}{twice} members stand in it twice, and the first is taken"
    return rows, damage, stat


def refuse_others(path: str, first: bytes) -> None:
    """What begins with no header of a tar."""
    for magic, undo in COMPRESSED.items():
        if first.startswith(magic):
            raise UserError(
                f"data webdataset.path: {path}: compressed, so single rows cannot be read; {undo} it (pictures hardly shrink anyway)"
            )
    try:
        tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # an empty one
        return
    except tarfile.HeaderError as error:
        raise UserError(f"data webdataset.path: {path}: no tar; give .tar files, downloaded in full") from error
