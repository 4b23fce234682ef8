"""What a source holds, row by row as training would read it: sizes, aspect ratios, lengths of captions, what cannot be used and why."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.training.contamination import Benchmarks
from metabridge.training.data import opened
from metabridge.training.feeds import Feed, Made, Streamed, Tabled
from metabridge.training.frames import Frames, Size
from metabridge.training.schema import BadRow, Raw, Schema, decoded, upright_size
from metabridge.training.seeds import row_seed

EXAMPLES = 5  # that are kept of each reason, benchmark and doubled prompt
TOO_SMALL = "the target is smaller than it would be trained at"


@dataclass(frozen=True)
class Row:
    """A row, its pictures not decoded yet, or why there is none."""

    where: str
    example: Example | None = None
    prompts: tuple[str, ...] = ()  # every alternative
    thoughts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    error: str = ""

    @staticmethod
    def of(raw: Raw, schema: Schema) -> Row:
        columns = tuple(raw.columns)
        try:
            prompts, thoughts = tuple(schema.texts(raw, "prompt")), tuple(schema.texts(raw, "thought"))
            return Row(raw.where, schema.example(raw, 0.0), prompts, thoughts, columns)
        except BadRow as bad:
            return Row(raw.where, columns=columns, error=str(bad))


def row_at(feed: Made | Tabled, index: int) -> Row:
    """Row `index` of a table, in its own order; of what is drawn from a seed, the row of that number."""
    if isinstance(feed, Made):
        example = feed.make(row_seed(feed.seed, 0, index))
        return Row(f"row {index + 1}", example, (example.prompt,), (example.thought,) if example.thought else ())
    try:
        return Row.of(feed.table.raw(index), feed.schema)
    except BadRow as bad:
        return Row(f"row {index + 1}", error=str(bad))


def rows_of(feed: Feed, count: int) -> Iterator[Row]:
    """The first `count` rows in the order of training; all of a table (also what is held out) in its own order where it has no more."""
    if isinstance(feed, Streamed):
        for raw, _ in itertools.islice(feed.stream.rows(0), count):
            yield Row("a row of the stream", error=str(raw)) if isinstance(raw, BadRow) else Row.of(raw, feed.schema)
    elif isinstance(feed, Tabled):
        total = table_rows(feed)
        for number in range(min(count, total)):
            yield row_at(feed, number if count >= total else feed.order.index(number))
    elif isinstance(feed, Made):
        for number in range(count):
            yield row_at(feed, number)


def table_rows(feed: Tabled) -> int:
    return sum(feed.table.blocks)


class Multiples:
    """Stands where a hand would, when there is none to ask: takes multiples of 32 pixels, as nearly every hand does; of 8 where few fit."""

    def __init__(self, side: int) -> None:
        self.default_size, self.step = (side, side), 32 if side >= 256 and side % 32 == 0 else 8

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        if height % self.step or width % self.step:
            raise UserError(f"size: {width}x{height} given; sides are multiples of {self.step}")
        return 1, height // self.step, width // self.step


@dataclass
class Group:
    """Things of one kind: how many, and the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass
class Survey:
    """What was found so far. `decode`: whether pictures are decoded, or their headers read alone."""

    frames: Frames
    benchmarks: Benchmarks
    decode: bool = True
    seen: int = 0
    bad: dict[str, Group] = field(default_factory=lambda: defaultdict(Group))  # reason -> rows
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # of targets, width x height
    buckets: Counter[Size] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)  # of each alternative of a prompt
    columns: Counter[str] = field(default_factory=Counter)  # rows that have it
    having: Counter[str] = field(default_factory=Counter)  # rows with images, thought, history
    prompts: Counter[str] = field(default_factory=Counter)
    contaminated: int = 0  # rows
    hits: dict[tuple[str, str], Group] = field(default_factory=lambda: defaultdict(Group))  # (benchmark, how) -> rows

    @property
    def usable(self) -> int:
        return self.seen - sum(group.count for group in self.bad.values())

    def add(self, row: Row) -> Example | None:
        """Count a row; its example with every picture decoded, if it can be used."""
        self.seen += 1
        self.columns.update(row.columns)
        self._texts(row)
        if row.error or row.example is None:
            self._refuse(row.where, row.error)
            return None
        try:
            return self._pictures(row.example)
        except BadRow as bad:
            self._refuse(row.where, str(bad))
            return None

    def _refuse(self, where: str, reason: str) -> None:
        kind = TOO_SMALL if reason.startswith(TOO_SMALL) else kind_of(reason)
        self.bad[kind].add(where if reason == kind else f"{where}: {reason.removeprefix(f'{TOO_SMALL}: ')}")

    def _texts(self, row: Row) -> None:
        self.words.update(len(prompt.split()) for prompt in row.prompts)
        self.prompts.update(row.prompts)
        found = {(hit.benchmark, hit.how): (prompt, hit) for prompt in row.prompts for hit in self.benchmarks.hits(prompt)}
        self.contaminated += bool(found)
        for key, (prompt, hit) in found.items():
            self.hits[key].add(f"{row.where}: {prompt}" + (f"  ~  {hit.theirs}" if hit.how == "near" else ""))

    def _pictures(self, example: Example) -> Example:
        if example.target is None:
            raise BadRow("no target picture")
        self.having.update(name for name in ("images", "thought", "history") if getattr(example, name))
        width, height = upright_size(example.target)
        size = self.frames.nearest(width, height)
        self.sizes[width, height] += 1
        self.buckets[size] += 1
        if not self.frames.upscale and (width < size[1] or height < size[0]):
            raise BadRow(f"{TOO_SMALL}: {width}x{height}, for {size[1]}x{size[0]}")
        if not self.decode:
            return example
        decoded(example.target, (size[1], size[0]))
        return opened(example)

    def report(self) -> dict[str, Any]:
        """All of it, in plain numbers."""
        doubled = {prompt: count for prompt, count in self.prompts.most_common(EXAMPLES) if count > 1}
        return {
            "rows_looked_at": self.seen,
            "usable": self.usable,
            "bad": {reason: {"rows": group.count, "examples": group.examples} for reason, group in self._most(self.bad)},
            "decoded": self.decode,
            "width": spread(Counter(_parts(self.sizes, 0))),
            "height": spread(Counter(_parts(self.sizes, 1))),
            "megapixels": spread(_areas(self.sizes)),
            "buckets": {f"{w}x{h}": self.buckets[h, w] for h, w in self.frames.sizes if self.buckets[h, w]},
            "caption_words": spread(self.words),
            "columns": dict(self.columns.most_common()),
            "with": {name: self.having[name] for name in ("images", "thought", "history")},
            "distinct_prompts": len(self.prompts),
            "doubled_prompts": doubled,
            "contaminated_rows": self.contaminated,
            "contamination": [
                {"benchmark": name, "how": how, "rows": group.count, "examples": group.examples}
                for (name, how), group in self._most(self.hits)
            ],
            "compared_with": dict(Counter(name for name, _ in self.benchmarks.prompts)),
        }

    @staticmethod
    def _most(groups: Mapping[Any, Group]) -> list[tuple[Any, Group]]:
        return sorted(groups.items(), key=lambda item: (-item[1].count, item[0]))


def kind_of(reason: str) -> str:
    """A reason without what is only this row's: names, numbers, sizes."""
    return re.sub(r"'[^']*'|<[^>]*>|\d+(?:x\d+)?", "…", reason)


def spread(counts: Mapping[Any, int]) -> dict[str, Any]:
    """Least, quartiles and greatest of values with their counts; {} of none."""
    values = sorted(counts)
    if not values:
        return {}
    ends = list(itertools.accumulate(counts[value] for value in values))
    last = ends[-1] - 1

    def at(share: float) -> Any:
        return next(value for value, end in zip(values, ends, strict=True) if end > share * last)

    return {"min": values[0], "low": at(0.25), "median": at(0.5), "high": at(0.75), "max": values[-1]}


def _parts(sizes: Mapping[tuple[int, int], int], side: int) -> dict[int, int]:
    found: Counter[int] = Counter()
    for size, count in sizes.items():
        found[size[side]] += count
    return found


def _areas(sizes: Mapping[tuple[int, int], int]) -> dict[float, int]:
    found: Counter[float] = Counter()
    for (width, height), count in sizes.items():
        found[float(f"{width * height / 1e6:.2g}")] += count
    return found
