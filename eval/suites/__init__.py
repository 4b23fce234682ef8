"""One YAML file a suite: several benchmarks, each in certain ways of drawing, and which of their numbers to set against each other.

title: ...
run: [{benchmark: wise, rows: "bridge,think"}, ...]
differences: [{name: knowledge gap, first: wise_rewrite, second: wise, note: ...}]       # headline of first - second, pictures paired
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.modules import names_in
from metabridge.bridge.reading import read_yaml
from metabridge.eval import benchmarks
from metabridge.eval.benchmarks import ROWS, Benchmark

PACKAGE = "metabridge.eval.suites"


@dataclass(frozen=True)
class Entry:
    word: str  # the benchmark's name, or the path of its file
    benchmark: Benchmark
    rows: str | None  # "bridge,think"; None = the benchmark's own


@dataclass(frozen=True)
class Difference:
    """Two benchmarks on the same prompts' ids: what one adds to the other."""

    name: str
    first: str
    second: str
    note: str = ""


@dataclass(frozen=True)
class Suite:
    entries: tuple[Entry, ...]
    differences: tuple[Difference, ...] = ()


def names() -> list[str]:
    return names_in(PACKAGE, ".yaml")


def find(words: str) -> Suite:
    """ "geneval,wise": benchmarks and suites, each benchmark once, drawn in every way that one of them wants."""
    entries: dict[str, Entry] = {}

    def add(word: str, rows: str | None = None) -> None:
        entry = Entry(word, benchmarks.load(word), rows)
        entries[word] = _both(entries.get(word, entry), entry)

    differences: list[Difference] = []
    for word in (word.strip() for word in words.split(",")):
        if word in names():
            tree = read(word)
            for run in tree["run"]:
                add(run["benchmark"], run.get("rows"))
            differences += [Difference(**difference) for difference in tree.get("differences", [])]
        elif word in benchmarks.names() or word.endswith(".yaml"):
            add(word)
        else:
            raise UserError(unknown(word, [*benchmarks.names(), *names()], "benchmark"))
    found = [entry.benchmark.name for entry in entries.values()]
    if double := next((name for name in found if found.count(name) > 1), None):
        raise UserError(f"--suite {words}: two benchmarks are called {double}; their folders would be one: rename one of the files")
    return Suite(tuple(entries.values()), tuple(differences))


def read(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = read_yaml((files(PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8"), f"suite {name}")
    return tree


def _both(one: Entry, other: Entry) -> Entry:
    if one.rows == other.rows:
        return one
    usual = {row for part in one.benchmark.parts.values() for row in part.rows}
    wanted = {row for rows in (one.rows, other.rows) for row in (usual if rows is None else rows.split(","))}
    return replace(one, rows=",".join(row for row in ROWS if row in wanted))
