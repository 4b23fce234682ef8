"""Where a number stands in a result: a column is a part of the benchmark, drawn in one way, measured by one metric.

    scores.<part>[.<mode>][.<metric>].<group>                    the bridge's own numbers
    baselines.hand_text_encoder.<part>[.<metric>].<group>        the hand under its own text encoder
    differences.<a> - <b>.<part>[.<metric>].<group>              paired, picture by picture

A mode (implicit, think, rewrite, query-only) is named where a part is drawn by a bridge in several ways, a metric where a benchmark has
several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabridge.eval.benchmarks import DRAWN_BY_BRIDGE, Benchmark, Metric

BASELINE = "hand_text_encoder"
MODES = {"bridge": "implicit", "think": "think", "rewrite": "rewrite", "query-only": "query-only"}


@dataclass(frozen=True)
class Column:
    part: str
    row: str
    metric: Metric
    path: tuple[str, ...]  # below the root of a result

    @property
    def mode(self) -> str:
        return "native" if self.row == "native" else MODES[self.row]

    @property
    def beside_others(self) -> bool:
        """Whether its part is drawn by a bridge in several ways, so that its mode has a name."""
        return self.path[2:3] == (self.mode,)


@dataclass(frozen=True)
class Gap:
    """The paired difference first - second."""

    first: Column
    second: Column
    path: tuple[str, ...]


def columns(benchmark: Benchmark, rows: Mapping[str, Any]) -> list[Column]:
    """`rows` as in a plan's generation: row -> parts. A part's usual rows have their place even where they were not drawn."""
    found = []
    for part, spec in benchmark.parts.items():
        drawn = [row for row, parts in rows.items() if part in parts]
        by_bridge = [row for row in DRAWN_BY_BRIDGE if row in drawn or row in spec.rows]
        for metric in benchmark.metrics:
            last = (metric.name,) if len(benchmark.metrics) > 1 else ()
            for row in by_bridge:
                mode = (MODES[row],) if len(by_bridge) > 1 else ()
                found.append(Column(part, row, metric, ("scores", part, *mode, *last)))
            if "native" in drawn:
                found.append(Column(part, "native", metric, ("baselines", BASELINE, part, *last)))
    return found


def gaps(benchmark: Benchmark, rows: Mapping[str, Any]) -> list[Gap]:
    """Thinking against not thinking, and what the bridge gains on the hand's own text encoder and by giving pictures to the hand."""
    there = {
        (column.part, column.row, column.metric.name): column
        for column in columns(benchmark, rows)
        if column.part in rows.get(column.row, ())
    }
    found = []
    for (part, row, name), column in there.items():
        if row == "bridge" or column.metric.within == "set" or (part, "bridge", name) not in there:
            continue
        plain = there[part, "bridge", name]
        last = (name,) if len(benchmark.metrics) > 1 else ()
        if row == "native":
            found.append(Gap(plain, column, ("differences", f"bridge - {BASELINE}", part, *last)))
        elif row == "query-only":
            found.append(Gap(plain, column, ("differences", f"{plain.mode} - {column.mode}", part, *last)))
        else:
            found.append(Gap(column, plain, ("differences", f"{column.mode} - {plain.mode}", part, *last)))
    return found


def get(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """What lies at a path; {} where nothing does."""
    node: Any = tree
    for key in path:
        node = node.get(key, {})
    return dict(node)


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
