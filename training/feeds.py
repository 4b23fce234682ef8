"""A source as the mixture reads it: row number n of the run, be it from a table, from a stream, or made on the spot."""

from __future__ import annotations

import itertools
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.training.order import Order, mix, permute
from metabridge.training.schema import BadRow, Raw, Schema

Columns = Mapping[str, Any]


class Table(Protocol):
    """A source whose rows can be asked for in any order. Pickles, so that workers can open it too."""

    blocks: Sequence[int]  # lengths of the runs of rows that are cheap to read together; their sum is the number of rows

    def raw(self, index: int) -> Raw:
        """Row `index` as it is stored; BadRow where it cannot be read."""
        ...


class Stream(Protocol):
    """A source that can only be read on and on. Pickles."""

    def rows(self, epoch: int, state: Any = None) -> Iterator[tuple[Raw | BadRow, Any]]:
        """The rows of an epoch, each with the state after it: `rows(epoch, state)` goes on from there."""
        ...


Make = Callable[[int], Example]  # seed -> a row that was not there before


class Feed(Protocol):
    """What the mixture asks of a source."""

    def example(self, number: int, seed: int, attempt: int = 0) -> Example: ...

    def held_out(self, number: int) -> Example: ...

    def size(self, number: int) -> tuple[int, int] | None:
        """Width and height of the target, where that is cheap to know."""
        ...

    def where(self, number: int, attempt: int = 0) -> str: ...


class Made:
    """Rows that are drawn from a seed."""

    def __init__(self, make: Make, seed: int) -> None:
        self.make, self.seed = make, seed

    def example(self, number: int, seed: int, attempt: int = 0) -> Example:
        return self.make(seed)

    def held_out(self, number: int) -> Example:
        return self.make(mix(self.seed, 4, number) >> 1)

    def size(self, number: int) -> None:
        return None

    def where(self, number: int, attempt: int = 0) -> str:
        return f"row {number}"


class Tabled:
    """A table in shuffled epochs."""

    def __init__(self, table: Table, schema: Schema, seed: int, held_out: int) -> None:
        self.table, self.schema, self.order = table, schema, Order(table.blocks, seed, held_out)

    def index(self, number: int, attempt: int = 0) -> int:
        return self.order.another(number, attempt) if attempt else self.order.index(number)

    def example(self, number: int, seed: int, attempt: int = 0) -> Example:
        return self.schema.example(self.table.raw(self.index(number, attempt)), random.Random(seed).random())

    def held_out(self, number: int) -> Example:
        if not self.order.held_out:
            raise UserError(NOTHING_HELD_OUT)
        return self.schema.example(self.table.raw(self.order.held_out[number % len(self.order.held_out)]), 0.0)

    def size(self, number: int) -> tuple[int, int] | None:
        try:
            return self.schema.target_size(self.table.raw(self.index(number)))
        except BadRow:
            return None

    def where(self, number: int, attempt: int = 0) -> str:
        try:
            return self.table.raw(self.index(number, attempt)).where
        except BadRow:
            return f"row {self.index(number, attempt) + 1}"


class Streamed:
    """A stream, shuffled within chunks of `chunk` rows. Rows may be asked for as far back as `reach` before the last one."""

    def __init__(self, stream: Stream, schema: Schema, seed: int, held_out: int, chunk: int = 256, reach: int = 4096) -> None:
        self.stream, self.schema, self.seed, self.kept_out = stream, schema, seed, held_out
        self.chunk, self.reach = chunk, max(reach, 2 * chunk)
        self.begin(None)

    def begin(self, cursor: Mapping[str, Any] | None) -> None:
        """From the start, or from a cursor that `cursor()` gave."""
        cursor = cursor or {"chunk": 0, "epoch": 0, "state": None}
        self.next, self.position = cursor["chunk"], (cursor["epoch"], cursor["state"])
        self.chunks: deque[tuple[int, list[Raw | BadRow], dict[str, Any]]] = deque()
        self.incoming = self._read(*self.position)
        self._held: list[Raw] | None = None

    def cursor(self) -> dict[str, Any]:
        """Where the oldest row that may still be asked for begins."""
        return self.chunks[0][2] if self.chunks else {"chunk": self.next, "epoch": self.position[0], "state": self.position[1]}

    def raw(self, number: int, attempt: int = 0) -> Raw:
        chunk, place = divmod(number, self.chunk)
        if chunk < (self.chunks[0][0] if self.chunks else self.next):
            self.begin(None)  # asked for what has gone by: read anew
        while not self.chunks or self.chunks[-1][0] < chunk:
            self._advance()
        rows = next(rows for k, rows, _ in self.chunks if k == chunk)
        place = permute(place, len(rows), self.seed, chunk) if not attempt else mix(self.seed, chunk, place, attempt) % len(rows)
        row = rows[place]
        if isinstance(row, BadRow):
            raise row
        return row

    def example(self, number: int, seed: int, attempt: int = 0) -> Example:
        return self.schema.example(self.raw(number, attempt), random.Random(seed).random())

    def held_out(self, number: int) -> Example:
        if not self.kept_out:
            raise UserError(NOTHING_HELD_OUT)
        if self._held is None:
            kept = (row for row, _ in self.stream.rows(0) if not isinstance(row, BadRow) and _kept_out(row))
            self._held = list(itertools.islice(kept, self.kept_out))
        if not self._held:
            raise UserError(NOTHING_HELD_OUT)
        return self.schema.example(self._held[number % len(self._held)], 0.0)

    def size(self, number: int) -> tuple[int, int] | None:
        try:
            return self.schema.target_size(self.raw(number))
        except BadRow:
            return None

    def where(self, number: int, attempt: int = 0) -> str:
        try:
            return self.raw(number, attempt).where
        except BadRow:
            return f"row {number}"

    def __getstate__(self) -> dict[str, Any]:
        """Workers read for themselves, from where this one would."""
        return {**self.__dict__, "incoming": None, "chunks": deque(), "cursor_": self.cursor(), "_held": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        cursor = state.pop("cursor_")
        self.__dict__.update(state)
        self.begin(cursor)

    def _advance(self) -> None:
        begun = {"chunk": self.next, "epoch": self.position[0], "state": self.position[1]}
        rows = []
        for row, position in itertools.islice(self.incoming, self.chunk):
            rows.append(row)
            self.position = position
        self.chunks.append((self.next, rows, begun))
        self.next += 1
        while len(self.chunks) * self.chunk > self.reach + self.chunk:
            self.chunks.popleft()

    def _read(self, epoch: int, state: Any) -> Iterator[tuple[Raw | BadRow, tuple[int, Any]]]:
        """Epoch after epoch, without what is held out."""
        while True:
            read = 0
            for row, after in self.stream.rows(epoch, state):
                if isinstance(row, BadRow) or not (self.kept_out and _kept_out(row)):
                    read += 1
                    yield row, (epoch, after)
            if not read and state is None:
                raise UserError("data: a streamed source has no rows; give another path")
            epoch, state = epoch + 1, None


def _kept_out(row: Raw) -> bool:
    """One row of a hundred, the same in every epoch: a stream does not know how many there are."""
    return zlib.crc32(row.where.encode()) % 100 == 0


NOTHING_HELD_OUT = "data: no rows are kept out of the training for validation; give the source holdout: 64, or set log.validate_every=0"
