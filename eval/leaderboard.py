"""Several results on one page: what is of one variant side by side, everything else apart."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import runs
from metabridge.eval.benchmarks import Benchmark, Metric, Published
from metabridge.eval.columns import columns, get
from metabridge.eval.compare import Side, across, verdicts
from metabridge.eval.report import Page, badge
from metabridge.eval.suites import Difference
from metabridge.eval.tables import Entry, Table, entry, rows_of, warnings

Across = tuple[Difference, tuple[str, Mapping[str, Any], Metric]]
Heads = Sequence[tuple[str, Metric]]
Runs = tuple[Sequence[Side], Sequence[Difference]]  # of a suite, and what it sets against each other


def page(suites: Sequence[Runs], folder: Path, missing: Sequence[tuple[str, Path]] = ()) -> Page:
    """`missing`: members of a suite that have no result yet, and their folders."""
    sides = [side for same, _ in suites for side in same]
    gaps, without = subtracted(suites)
    absent = [f"{name}: no result yet; finish it in {place}, then make this page again" for name, place in missing]
    return Page(
        title="Evaluations side by side",
        lead="A table for each variant of a score: numbers of different variants do not stand beside each other.",
        cards=(),
        tables=[(table, []) for table in [*tables(sides), *([differences_table(gaps)] if gaps else [])]],
        sheets=(),
        identity=[],
        warnings=[*absent, *without, *(f"{side.folder}: {line}" for side in sides for line in warnings(side.result))],
        notes=[*notes(sides), *verdicts([gap for _, gap in gaps], "the two")],
        links=[
            (f"{side.plan.definition.name}: {label}", os.path.relpath(side.folder / "report.html", folder))
            for same in _variants(sides)
            for side, label in zip(same, _labels(same), strict=True)
        ],
    )


def subtracted(suites: Sequence[Runs]) -> tuple[list[Across], list[str]]:
    """The differences that each suite declares between its own runs, and a line on each that cannot be made."""
    gaps: list[Across] = []
    lines = []
    several = sum(bool(differences) for _, differences in suites) > 1
    for sides, differences in suites:
        by_name = {side.plan.definition.name: side for side in sides}
        for one in differences:
            name = f"{one.name}, {sides[0].result['identity']['model']['name']}" if several else one.name
            if lacking := [benchmark for benchmark in (one.first, one.second) if benchmark not in by_name]:
                lines.append(f"{name}: {one.first} - {one.second} is not there, for there is no result of {' nor of '.join(lacking)}")
                continue
            try:
                gaps.append((one, across(by_name[one.first], by_name[one.second], name)))
            except UserError as error:
                lines.append(str(error))
    return gaps, lines


def notes(sides: Sequence[Side]) -> list[str]:
    """The badge of each benchmark, and why published numbers are not shown where none are."""
    said = []
    for same in _variants(sides):
        benchmark = same[0].plan.definition
        whys = [runs.why_no_published(benchmark, side.result) for side in same]
        said += [f"{benchmark.name}: {line}" for line in (badge(benchmark), whys[0] if all(whys) else "") if line]
    return list(dict.fromkeys(said))


def tables(sides: Sequence[Side]) -> list[Table]:
    """One a variant: a row a model and way of drawing, a column a headline of a part."""
    return [_of_variant(same) for same in _variants(sides)]


def _variants(sides: Sequence[Side]) -> list[list[Side]]:
    """By variant; of one, the runs of the whole benchmark come first."""
    variants: dict[str, list[Side]] = {}
    for side in sides:
        variants.setdefault(side.result["variant"], []).append(side)
    return [sorted(same, key=lambda side: not runs.is_whole(side.plan.definition, side.result)) for same in variants.values()]


def _labels(sides: Sequence[Side]) -> list[str]:
    return runs.labels([(side.result, side.folder) for side in sides])


def _of_variant(sides: Sequence[Side]) -> Table:
    """Published rows come after the runs of the whole benchmark, which alone they stand beside, and say their size where runs do."""
    benchmark, results = sides[0].plan.definition, [side.result for side in sides]
    there = {(c.part, c.metric.name) for result in results for c in columns(benchmark, rows_of(result)) if get(result, c.path)}
    heads = [(part, metric) for part in benchmark.parts for metric in benchmark.metrics if (part, metric.name) in there]
    lines = [_rows(benchmark, result, label, heads) for result, label in zip(results, _labels(sides), strict=True)]
    whole = [result for result in results if runs.is_whole(benchmark, result)]
    if whole:
        apart = f", {runs.size(whole[0])}" if len({runs.size(result) for result in results}) > 1 else ""
        lines.insert(len(whole), [_published(known, heads, apart) for known in runs.published(benchmark, whole[0])])
    titles = (
        " ".join(word for word in (benchmark.parts[part].title if len(benchmark.parts) > 1 else "", metric.title or metric.name) if word)
        for part, metric in heads
    )
    title = f"{benchmark.title.partition(':')[0]}: {results[0]['variant']}"
    return Table(title, "", ("model", *titles), tuple(line for rows in lines for line in rows))


Line = tuple[str, tuple[Entry, ...]]


def _rows(benchmark: Benchmark, result: Mapping[str, Any], label: str, heads: Heads) -> list[Line]:
    """A row a way of drawing."""
    ways: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for column in columns(benchmark, rows_of(result)):
        if cells := get(result, column.path):
            ways.setdefault(column.row, {})[column.part, column.metric.name] = cells["overall"]
    return [
        (
            label + ("" if row == "bridge" else f" ({row})"),
            tuple(entry(dict(cells.get((part, metric.name), {})), digits=metric.digits) for part, metric in heads),
        )
        for row, cells in ways.items()
    ]


def _published(known: Published, heads: Heads, apart: str) -> Line:
    """In the first column of its metric."""
    names = [metric.name for _, metric in heads]
    entries = [Entry("")] * len(heads)
    if known.metric in names:
        place = names.index(known.metric)
        entries[place] = Entry(f"{known.value:.{heads[place][1].digits}f}")
    return f"{known.name} (published{apart})", tuple(entries)


def differences_table(gaps: Sequence[Across]) -> Table:
    """Two benchmarks on the same prompts in other words."""
    lines = tuple(
        (
            name,
            (
                entry(dict(cell), signed=True, digits=metric.digits),
                Entry(f"{difference.first} - {difference.second}"),
                Entry(difference.note),
            ),
        )
        for difference, (name, cell, metric) in gaps
    )
    return Table("Differences", "Paired by prompt and picture.", ("", "difference", "of", "what it says"), lines)
