"""An evaluation as one self-contained page and as Markdown: numbers, figures, contact sheets, what was measured."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from metabridge.eval import plot, runs, sheet, store
from metabridge.eval.benchmarks import BADGES, ROWS, Benchmark
from metabridge.eval.columns import Column, columns, get
from metabridge.eval.score import Scored
from metabridge.eval.tables import (
    NATIVE,
    Entry,
    Results,
    Table,
    capital,
    entry,
    part_heading,
    result_tables,
    rows_of,
    title_of,
    warnings,
    way_title,
)

MARKED = "Green is right, red is wrong, orange in between, the worst prompts come first. What the scorer found is written in red."
UNMARKED = "Pictures as they come: the headline is of all of them together, so none is right or wrong by itself."


@dataclass(frozen=True)
class Figure:
    """A picture with its heading; `image` is a data URI or, as a plot, inline SVG."""

    title: str
    image: str = ""
    svg: str = ""


@dataclass(frozen=True)
class Page:
    title: str
    lead: str
    cards: Sequence[tuple[str, Entry, str]]  # (what, number, beside what)
    tables: Sequence[tuple[Table, Sequence[Figure]]]
    sheets: Sequence[tuple[str, Sequence[Figure]]]
    identity: Sequence[tuple[str, str]]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    commands: Sequence[tuple[str, str, str]] = ()  # (command, what it did, time)
    before: Sequence[tuple[str, str, Sequence[Figure]]] = ()  # (heading, text, figures), above the tables
    links: Sequence[tuple[str, str]] = ()  # (text, relative address)
    sheets_note: str = MARKED


def render(page: Page) -> str:
    source = resources.files("metabridge.eval").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(page=page)


def write(page: Page, path: Path) -> Path:
    store.write(path, render(page).encode())
    return path


def page(
    benchmark: Benchmark, scored: Sequence[Scored], result: Mapping[str, Any], folder: Path, data: Path | None = None, bounds: bool = False
) -> Page:
    """The report of one evaluation; its contact sheets are written on the way."""
    results = {"bridge" if result["identity"]["model"]["kind"] == "bridge" else "model": result}
    tables = result_tables(benchmark, results, bounds)
    figures = {part_heading(benchmark, part): part_plot(benchmark, part, results) for part in benchmark.parts}
    return Page(
        title=f"{benchmark.name}: {result['identity']['model']['name']}",
        lead=f"{benchmark.title}. {size(benchmark, result['identity']['benchmark'])}. Variant {result['variant']}.",
        cards=cards(benchmark, result),
        tables=[
            *((table, [f for f in [figures.get(table.title)] if f]) for table in tables),
            *((table, []) for table in published(benchmark, result)),
        ],
        sheets=sheets(benchmark, scored, folder, data),
        identity=identity(result["identity"]),
        warnings=warnings(result),
        notes=notes(benchmark, result),
        sheets_note=MARKED if sheet.is_marked(benchmark.metrics[0]) else UNMARKED,
    )


def notes(benchmark: Benchmark, result: Mapping[str, Any]) -> list[str]:
    """How far the number can be trusted, and what the benchmark's own traps are."""
    lines = [badge(benchmark), runs.why_no_published(benchmark, result), *benchmark.notes]
    return [line for line in lines if line]


def badge(benchmark: Benchmark) -> str:
    return f"Badge: {benchmark.badge} ({BADGES[benchmark.badge]}). {capital(benchmark.badge_note)}".strip()


def published(benchmark: Benchmark, result: Mapping[str, Any]) -> list[Table]:
    """Numbers from the literature, beside a result that they may stand beside."""
    digits = {metric.name: metric.digits for metric in benchmark.metrics}
    rows = tuple(
        (row.name, (Entry(f"{row.value:.{digits.get(row.metric, 2)}f}"), Entry(row.metric), Entry(row.source)))
        for row in runs.published(benchmark, result)
    )
    heads = ("model", "value", "metric", "source")
    return [Table("Published", "By their authors, on the same variant and all prompts; without intervals.", heads, rows)] if rows else []


def size(benchmark: Benchmark, measured: Mapping[str, Any]) -> str:
    """ "Prompts: 100 of each group. 2 pictures a prompt", or how many of which."""
    kinds: dict[int, list[str]] = {}
    for kind, number in measured["prompts"].items():
        kinds.setdefault(number, []).append(benchmark.title_of(kind))
    numbers, labels = sorted(kinds, reverse=True), dict.fromkeys(part.label for part in benchmark.parts.values())
    if len(numbers) > 1:
        prompts = [f"{number} of {', '.join(kinds[number])}" for number in numbers]
    else:
        prompts = [f"{numbers[0]} of each {' and '.join(labels)}" if len(kinds[numbers[0]]) > 1 else str(numbers[0])]
    pictures = measured["images_per_prompt"]
    return f"Prompts: {'; '.join(prompts)}. {pictures} picture{'s' if pictures > 1 else ''} a prompt"


def cards(benchmark: Benchmark, result: Mapping[str, Any]) -> list[tuple[str, Entry, str]]:
    """The numbers to read first: the headline of each part, in each way of drawing."""
    headline, found = benchmark.metrics[0], []
    ways = [column for column in columns(benchmark, rows_of(result)) if column.metric == headline and get(result, column.path)]
    native = {column.part: get(result, column.path)["overall"] for column in ways if column.row == "native"}
    for column in ways:
        cell = get(result, column.path)["overall"]
        spec = benchmark.parts[column.part]
        if column.row == "native":
            continue
        mode = f", {column.mode}" if column.beside_others else ""
        if column.part in native:
            beside = f"{NATIVE}: {entry(native[column.part], digits=headline.digits)}"
        elif "chance" in cell:
            beside = f"chance: {cell['chance']:.2f}"
        else:
            beside = result["variant"]
        title = f"{spec.title}{mode or ', overall'}" if spec.title else f"{capital(headline.title or headline.name)}{mode}"
        found.append((title, entry(cell, digits=headline.digits), beside))
    return found


def part_plot(benchmark: Benchmark, part: str, results: Results, title: str = "") -> Figure:
    """Bars with intervals, a group of bars a group of the benchmark; of the headline metric."""
    metric, series, colors = benchmark.metrics[0], [], iter(plot.BRIDGES)
    for number, (name, result) in enumerate(results.items()):
        for column in columns(benchmark, rows_of(result)):
            if (column.part, column.metric) != (part, metric) or not get(result, column.path) or (number and column.row == "native"):
                continue
            color = _color(column) or next(colors, plot.BRIDGES[-1])
            series.append(plot.Series(way_title(column, len(results), name), get(result, column.path), color))
    series.sort(key=lambda one: one.color == plot.BASELINE)
    names = {group: title_of(benchmark, group) for one in series for group in one.group}
    spec = benchmark.parts[part]
    heading = f"{spec.title or capital(metric.title or metric.name)} by {spec.label}{title and f': {title}'}, with 95% intervals"
    label = "share right" if (metric.low, metric.high) == (0, 1) and metric.name == "correct" else metric.title or metric.name
    return Figure(heading, svg=plot.bars(series, names, label, metric.high) if series else "")


def _color(column: Column) -> str:
    """Of a way of drawing that stands beside others; a model's color is its own."""
    if column.row == "native":
        return plot.BASELINE
    if not column.beside_others:
        return ""
    return {"bridge": plot.IMPLICIT, "think": plot.THINK, "rewrite": plot.REWRITE, "query-only": plot.QUERY_ONLY}[column.row]


def sheets(benchmark: Benchmark, scored: Sequence[Scored], folder: Path, data: Path | None = None) -> list[tuple[str, list[Figure]]]:
    """Write `sheets/<row>-<group>.png` and hand them back for the page: a way of drawing and a part after the other."""
    sections, last = [], ("native", "query-only")  # what the others are measured against
    ways = dict.fromkeys((s.sample.row, benchmark.part_of(s.sample.item.group)) for s in scored)
    for row, part in sorted(ways, key=lambda way: (way[0] in last, list(benchmark.parts).index(way[1]), -list(ROWS).index(way[0]))):
        of_row = [
            s for s in scored if s.sample.row == row and not s.sample.item.held_out and benchmark.part_of(s.sample.item.group) == part
        ]
        if not any((folder / s.sample.file).exists() for s in of_row):
            continue  # numbers of an official scorer, whose pictures are elsewhere
        figures = []
        for group in dict.fromkeys(s.sample.item.group for s in of_row):
            tiles = [s for s in of_row if s.sample.item.group == group]
            figures.append(_sheet(benchmark, tiles, group, folder / "sheets" / f"{row}-{group}.png", folder, data))
        if figures:
            sections.append((": ".join(word for word in (benchmark.parts[part].title, ROWS[row]) if word), figures))
    return sections


def _sheet(benchmark: Benchmark, tiles: Sequence[Scored], group: str, path: Path, folder: Path, data: Path | None) -> Figure:
    metric = benchmark.metrics[0]
    good = sheet.goodness(metric)
    shown = sheet.choose(tiles, good, sheet.most(benchmark, tiles[0]))
    png = sheet.save(sheet.sheet(shown, folder, benchmark, data), path)
    full = "right" if metric.name == "correct" else "with full marks"
    perfect = f"{sum(good(s) >= 1 for s in tiles)} of {len(tiles)} {full}, "
    said = f"{perfect}{len(shown)} shown, worst first" if sheet.is_marked(metric) else f"{len(shown)} of {len(tiles)} shown"
    return Figure(f"{benchmark.title_of(group)}: {said}", data_uri(png))


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def identity(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested identity as lines: `model.brain.repo`, value."""
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += identity(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)))
    return lines


def markdown(page: Page) -> str:
    """The same for a terminal, an issue or a paper's appendix: without pictures."""
    lines = [f"# {page.title}", "", page.lead, "", *(f"> {line}\n" for line in page.warnings)]
    for table, _ in page.tables:
        lines += [f"## {table.title}", "", *([table.note, ""] if table.note else []), *markdown_table(table), ""]
    lines += [*(f"- {note}" for note in page.notes), "", "## What was measured", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_cell(value)} |" for key, value in page.identity]
    return "\n".join(lines) + "\n"


def markdown_table(table: Table) -> list[str]:
    head = ["| " + " | ".join(map(_cell, table.columns)) + " |", "|---" * len(table.columns) + "|"]
    return head + ["| " + " | ".join(_cell(str(one)) for one in (label, *entries)) + " |" for label, entries in table.rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
