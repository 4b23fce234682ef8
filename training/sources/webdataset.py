"""Tar files as the webdataset format has them: files of one base name are a row.

Local tars are read at any row. Those of another place are a stream: each from its beginning, or the byte where a resume goes on.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.training.columns import Lazy
from metabridge.training.feeds import Stream, Table
from metabridge.training.network import Patience, of_network, said
from metabridge.training.order import permute
from metabridge.training.paths import addresses, find, is_remote
from metabridge.training.schema import BadRow, Raw
from metabridge.training.tar_rows import Sample, content
from metabridge.training.tars import BLOCK, Damaged, Tar, members, opened, refuse_others, tar

log = logging.getLogger(__name__)

WHAT = "data webdataset"
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # what is compressed is found too, and refused
TOLD_EVERY = 10.0  # seconds between lines about progress
AHEAD = 16 << 20  # bytes that are read at a time from another place


class Shards:
    """Rows of tars, each of which is a block."""

    def __init__(self, tars: list[Tar]) -> None:
        self.tars = tars
        self.blocks: Sequence[int] = [known.rows for known in tars]
        self.ends = list(accumulate(self.blocks))

    def raw(self, index: int) -> Raw:
        number = bisect.bisect_right(self.ends, index)
        known = self.tars[number]
        shard, row = opened(known), index - (self.ends[number] - known.rows)
        key = shard.key(row)
        places = shard.places(row)
        members = Lazy(places, lambda name: content(name, shard.read(*places[name])))
        return Raw(Sample(key, members, known.names), f"{known.path.name}:{key}", known.path.parent)


class Remote:
    """Rows of tars of another place, the tars of each epoch in an order of its own.

    The state after a row is the tar's place in that order, and the byte at which the next row begins.
    """

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
        state = state or {"file": 0, "byte": 0}
        for place in range(state["file"], len(self.urls)):
            url = self.urls[permute(place, len(self.urls), epoch, 6)]
            yield from self._file(url, place, state["byte"] if place == state["file"] else 0)

    def _file(self, url: str, place: int, byte: int) -> Iterator[tuple[Raw | BadRow, Any]]:
        import fsspec

        patience, name = Patience(WHAT), url.rsplit("/", 1)[-1]
        while True:
            try:
                with fsspec.open(url, "rb", block_size=AHEAD).open() as file:
                    for row, after in _rows(file, name, byte):
                        patience.worked()
                        yield row, {"file": place, "byte": after} if after else {"file": place + 1, "byte": 0}
                        if not after:
                            return
                        byte = after
                return
            except Damaged as error:
                log.warning("%s: %s; its whole rows are used", url, error)
                yield BadRow(f"{name}: {error}"), {"file": place + 1, "byte": 0}
                return
            except Exception as error:
                if not of_network(error):
                    raise
                patience.failed(f"{url}, byte {byte:,}", error)


class Whole:
    """A remote file whose reads give all that was asked for: what comes short of it is the network's fault, and tried again."""

    def __init__(self, file: Any) -> None:
        self.file, self.size, self.seek, self.tell = file, file.size, file.seek, file.tell

    def read(self, size: int) -> bytes:
        wanted = min(size, self.size - self.tell())
        data: bytes = self.file.read(size)
        if len(data) < wanted:
            raise ConnectionError(f"{len(data)} bytes of {wanted} came")
        return data


def _rows(file: Any, name: str, byte: int) -> Iterator[tuple[Raw, int | None]]:
    """Each row from a byte on, and where the next one begins; None after the last."""

    def row() -> Raw:
        found, now = dict(contents), key
        return Raw(Sample(now, Lazy(found, lambda member: content(member, found[member])), tuple(found)), f"{name}:{now}")

    if file.size is None:
        raise UserError(f"{WHAT}: {name}: its server does not say how long it is; give a local copy")
    if not byte:
        refuse_others(name, file.read(BLOCK))
    file = Whole(file)
    key = ""
    contents: dict[str, bytes] = {}
    for member in members(file, file.size, byte):
        if (parts := member.parts()) is None:
            continue
        if parts[0] != key and contents:
            yield row(), member.begin
            contents = {}
        key = parts[0]
        file.seek(member.offset)
        contents.setdefault(parts[1], file.read(member.size))
    if contents:
        yield row(), None


def load(path: str, files: str | None = None) -> Table | Stream:
    """`files`: a pattern inside of the folder, or of the address, `path`."""
    if is_remote(path):
        return Remote(_listed(addresses(WHAT, path, files, ENDINGS)))
    return Shards(_indexed(find(WHAT, path, files, ENDINGS)))


def _listed(patterns: list[str]) -> list[str]:
    import fsspec

    found: dict[str, None] = {}
    for pattern in patterns:
        try:
            system, path = fsspec.core.url_to_fs(pattern)
            matching = sorted(system.glob(path)) if "*" in path or "?" in path else [path]
        except Exception as error:  # of a server, an address, or a package that is not there: each kind of place has its own
            raise UserError(f"{WHAT}.path: {pattern}: cannot be listed ({said(error)}); give a local copy, or mend that") from error
        found |= dict.fromkeys(system.unstrip_protocol(name) for name in matching)
    if not found:
        raise UserError(f"{WHAT}.path: {patterns[0]}: no such file; give a pattern that exists")
    return list(found)


def _indexed(paths: list[Path]) -> list[Tar]:
    """Every tar with its members known; how far it is, now and then."""
    found, told = [], time.monotonic()
    for path in paths:
        found.append(tar(path))
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            log.warning(WHAT + ": %d of %d tars indexed, %d rows so far", len(found), len(paths), sum(t.rows for t in found))
    if not any(known.rows for known in found):
        raise UserError(f"{WHAT}.path: {paths[0]}: no rows in it{_others(paths)}; a row is NAME.jpg, NAME.txt, NAME.json side by side")
    return found


def _others(paths: list[Path]) -> str:
    return f" nor in {len(paths) - 1} others" if len(paths) > 1 else ""
