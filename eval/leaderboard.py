"""Several results on one page: what is of one variant side by side, everything else apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.eval.benchmarks import Benchmark, Metric
from metabridge.eval.columns import columns, get
from metabridge.eval.compare import verdicts
from metabridge.eval.report import Page, notes, published
from metabridge.eval.suites import Difference
from metabridge.eval.tables import Entry, Table, entry, rows_of, warnings

Row = tuple[Benchmark, Mapping[str, Any], Path]
Across = tuple[Difference, tuple[str, Mapping[str, Any], Metric]]


def page(rows: Sequence[Row], gaps: Sequence[Across], folder: Path) -> Page:
    made = tables(rows)
    if gaps:
        made.append(across(gaps))
    said: list[str] = []
    for benchmark, result, _ in rows:
        line = f"{benchmark.name}: {notes(benchmark, result)[0]}"
        said += [line] if line not in said else []
    return Page(
        title="Evaluations side by side",
        lead="A table for each variant of a score: numbers of different variants do not stand beside each other.",
        cards=(),
        tables=[(table, []) for table in made],
        sheets=(),
        identity=[],
        warnings=[f"{place}: {line}" for _, result, place in rows for line in warnings(result)],
        notes=[*said, *verdicts([gap for _, gap in gaps], "the two")],
        links=[
            (f"{benchmark.name}: {result['identity']['model']['name']}", os.path.relpath(place / "report.html", folder))
            for benchmark, result, place in rows
        ],
    )


def tables(rows: Sequence[Row]) -> list[Table]:
    """One a variant: a row a model and way of drawing, a column a headline of a part."""
    variants: dict[str, list[Row]] = {}
    for row in rows:
        variants.setdefault(row[1]["variant"], []).append(row)
    return [_of_variant(name, same) for name, same in variants.items()]


def _of_variant(name: str, rows: Sequence[Row]) -> Table:
    benchmark = rows[0][0]
    heads = [(part, metric) for part in benchmark.parts for metric in benchmark.metrics]
    lines: list[tuple[str, tuple[Entry, ...]]] = []
    for _, result, _ in rows:
        ways: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
        for column in columns(benchmark, rows_of(result)):
            if cells := get(result, column.path):
                ways.setdefault(column.row, {})[column.part, column.metric.name] = cells["overall"]
        for row, cells in ways.items():
            label = result["identity"]["model"]["name"] + ("" if row == "bridge" else f" ({row})")
            lines.append((label, tuple(entry(cells.get((part, metric.name)), digits=metric.digits) for part, metric in heads)))
    for known in published(benchmark, rows[0][1]):
        lines += [
            (
                f"{label} (published)",
                tuple(value if metric.name == said.value and not number else Entry("") for number, (_, metric) in enumerate(heads)),
            )
            for label, (value, said, _) in known.rows
        ]
    titles = tuple(
        " ".join(word for word in (benchmark.parts[part].title if len(benchmark.parts) > 1 else "", metric.title or metric.name) if word)
        for part, metric in heads
    )
    return Table(f"{benchmark.title.partition(':')[0]}: {name}", "", ("model", *titles), tuple(lines))


def across(gaps: Sequence[Across]) -> Table:
    """Two benchmarks on the same prompts in other words."""
    lines = tuple(
        (
            difference.name,
            (entry(cell, signed=True, digits=metric.digits), Entry(f"{difference.first} - {difference.second}"), Entry(difference.note)),
        )
        for difference, (_, cell, metric) in gaps
    )
    return Table("Differences", "Paired by prompt and picture.", ("", "difference", "of", "what it says"), lines)
