"""A result as tables for people: rows are groups, columns are ways of drawing and metrics, then paired differences and chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metabridge.eval.benchmarks import Benchmark, Metric, Part
from metabridge.eval.columns import Column, columns, gaps, get
from metabridge.eval.result import Cell, Group

NATIVE = "hand's own text encoder"
Results = Mapping[str, Mapping[str, Any]]  # name -> result


@dataclass(frozen=True)
class Entry:
    """A number of a table and what stands smaller beside it."""

    value: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.interval}".strip()


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    columns: tuple[str, ...]  # the first names the row
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]


def entry(cell: Cell | None, *, signed: bool = False, digits: int = 2, bounds: bool = False) -> Entry:
    if not cell:
        return Entry("")
    if cell["value"] is None:
        ends = cell.get("bounds", {"least": None, "most": None})
        known = bounds and None not in ends.values()
        between = f"; {ends['least']:.{digits}f} to {ends['most']:.{digits}f}" if known else ""
        return Entry("n/a", f"({cell['unscored']} of {cell['n']} unscored{between})")
    form = f"{{:+.{digits}f}}" if signed else f"{{:.{digits}f}}"
    value, low, high = (None if cell[key] is None else form.format(round(cell[key], digits) + 0.0) for key in ("value", "low", "high"))
    return Entry(str(value), "" if low is None else f"[{low}, {high}]")


def rows_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["identity"]["generation"]["rows"]
    return found


def way_title(column: Column, results: int, name: str) -> str:
    """What a column is called: the model where there are several, the mode where a part is drawn in several."""
    if column.row == "native":
        return NATIVE
    modes = [column.mode] if column.beside_others else []
    return ", ".join([*([name] if results > 1 or not modes else []), *modes])


Way = tuple[str, Group, bool]  # heading, cells, whether they are differences


def ways(benchmark: Benchmark, part: str, metric: Metric, results: Results) -> list[Way]:
    """The columns of a part by one metric: each model's ways of drawing, the first one's baseline and differences."""
    found: list[Way] = []
    baselines: list[Way] = []
    first = next(iter(results.values()))
    for name, result in results.items():
        for column in columns(benchmark, rows_of(result)):
            if (column.part, column.metric) != (part, metric) or not (cells := get(result, column.path)):
                continue
            title = way_title(column, len(results), name)
            if column.row != "native":
                found.append((title, cells, False))
            elif result is first:
                baselines.append((title, cells, False))
    found += baselines
    own = [gap for gap in gaps(benchmark, rows_of(first)) if (gap.first.part, gap.first.metric) == (part, metric)]
    for gap in own:
        native = gap.second.row == "native"
        if (native or len(results) == 1) and (cells := get(first, gap.path)):
            alone = len(own) == 1 and len(results) == 1 and len(rows_of(first)) <= 3
            words = f"{next(iter(results))} - hand's own" if native else f"{gap.first.mode} - {gap.second.mode}"
            found.append(("difference" if alone else words, cells, True))
    return found


def part_heading(benchmark: Benchmark, part: str) -> str:
    return benchmark.parts[part].title or ("Scores" if len(benchmark.parts) == 1 else part)


def part_table(benchmark: Benchmark, part: str, results: Results, bounds: bool = False) -> Table:
    """A part of the benchmark by its headline metric: rows are groups; one model's ways beside each other, or several models."""
    spec, metric = benchmark.parts[part], benchmark.metrics[0]
    found = ways(benchmark, part, metric, results)
    names = list(found[0][1]) if found else []
    rows = [(title_of(benchmark, n), [_entry(cells, n, signed, metric, bounds) for _, cells, signed in found]) for n in names]
    titles = [title for title, _, _ in found]
    if spec.chance:
        guesses = [next((cells[n]["chance"] for _, cells, _ in found if "chance" in cells.get(n, {})), None) for n in names]
        rows = [(title, [*row, Entry("" if guess is None else f"{guess:.2f}")]) for (title, row), guess in zip(rows, guesses, strict=True)]
        titles.append("chance")
    note = spec.note or f"{capital(metric.title or metric.name)}: {metric.note}"
    return Table(part_heading(benchmark, part), note, (spec.label, *titles), tuple((title, tuple(row)) for title, row in rows))


def other_metrics(benchmark: Benchmark, part: str, results: Results, bounds: bool = False) -> list[Table]:
    """The overall numbers by the metrics beside the headline: a row a metric. Their groups are in result.json."""
    by_metric = [(metric, ways(benchmark, part, metric, results)) for metric in benchmark.metrics]
    by_metric = [(metric, found) for number, (metric, found) in enumerate(by_metric) if found or not number]  # not all are of every part
    if len(by_metric) == 1:
        return []
    heads = list(dict.fromkeys(title for _, found in by_metric for title, _, _ in found))
    rows = []
    for metric, found in by_metric[1:]:
        there = {title: _entry(cells, "overall", signed, metric, bounds) for title, cells, signed in found}
        rows.append((metric.title or metric.name, tuple(there.get(head, Entry("")) for head in heads)))
    notes = " ".join(f"{capital(metric.title or metric.name)}: {metric.note}" for metric, _ in by_metric[1:] if metric.note)
    title = benchmark.parts[part].title or ("" if len(benchmark.parts) == 1 else part)
    return [Table(f"{title}: other measures" if title else "Other measures", notes, ("measure", *heads), tuple(rows))]


def _entry(cells: Group, name: str, signed: bool, metric: Metric, bounds: bool) -> Entry:
    return entry(cells.get(name), signed=signed, digits=metric.digits, bounds=bounds)


def capital(text: str) -> str:
    """With a capital at its start; the rest as it is."""
    return text[:1].upper() + text[1:]


def title_of(benchmark: Benchmark, group: str) -> str:
    return "overall" if group == "overall" else benchmark.title_of(group)


def held_out(benchmark: Benchmark, result: Mapping[str, Any], bounds: bool = False) -> list[Table]:
    """Seen and held-out items side by side, for the groups that have both."""
    apart: Mapping[str, Any] = result.get("held_out", {})
    tables = []
    for part, spec in benchmark.parts.items() if apart else ():
        pairs: list[tuple[str, Group, Group, Metric]] = []
        drawn = [column for column in columns(benchmark, rows_of(result)) if column.part == part and column.metric == benchmark.metrics[0]]
        thinks = any(column.row == "think" for column in drawn)
        for column in drawn:
            if thinks and column.row != "think":
                continue  # what was held out is a thought's
            title = way_title(column, 1, "bridge")
            pairs.append((title, get(result, column.path), get(apart, column.path), column.metric))
        if thinks:
            seen, unseen = get(result, ("thoughts",)), get(apart, ("thoughts",))
            pairs.append(("thought", _of_part(seen, spec), _of_part(unseen, spec), Metric("thought")))
        pairs = [pair for pair in pairs if pair[1] and pair[2]]
        if not pairs:
            continue
        names = [name for name in pairs[0][2] if name != "overall" or set(pairs[0][2]) == set(pairs[0][1])]
        rows = tuple(
            (title_of(benchmark, n), tuple(entry(g.get(n), digits=m.digits, bounds=bounds) for _, a, b, m in pairs for g in (a, b)))
            for n in names
        )
        heads = tuple(f"{title}, {split}" for title, *_ in pairs for split in ("seen", "held out"))
        tables.append(Table(f"{spec.title or part.capitalize()}: held out", spec.held_out, (spec.label, *heads), rows))
    return tables


def _of_part(cells: Group, spec: Part) -> Group:
    """Its groups; an overall number that is of others, too, is not its own."""
    own = {name: cell for name, cell in cells.items() if name != "overall" and spec.holds(name)}
    return cells if len(own) == len(cells) - 1 else own


def facets(benchmark: Benchmark, result: Mapping[str, Any]) -> list[Table]:
    """Finer categories, a column a way of drawing."""
    found = result.get("facets") or {}
    names = list(dict.fromkeys(name for group in found.values() for name in group))
    if not names:
        return []
    rows = tuple((name, tuple(entry(group.get(name)) for group in found.values())) for name in names)
    return [
        Table(
            capital(benchmark.facets),
            "Points got by points there were to get; pictures that could not be made are not among them.",
            ("category", *found),
            rows,
        )
    ]


def result_tables(benchmark: Benchmark, results: Results, bounds: bool = False) -> list[Table]:
    """Every table of one model, or of several side by side."""
    tables = []
    for part in benchmark.parts:
        tables += [part_table(benchmark, part, results, bounds), *other_metrics(benchmark, part, results, bounds)]
    for result in results.values() if len(results) == 1 else ():
        tables += [*held_out(benchmark, result, bounds), *facets(benchmark, result)]
    return tables


def comparison(title: str, names: tuple[str, str], groups: tuple[Group, Group], gap: Group, benchmark: Benchmark, metric: Metric) -> Table:
    """Two evaluations on the pictures they share, and their paired difference."""
    columns = [(name, group, False) for name, group in zip(names, groups, strict=True)]
    columns.append(("difference", gap, True))
    rows = tuple((title_of(benchmark, n), tuple(entry(g.get(n), signed=s, digits=metric.digits) for _, g, s in columns)) for n in groups[0])
    return Table(title, "Paired: same prompts, same seeds.", ("group", *(name for name, _, _ in columns)), rows)


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers."""
    pictures, lines = result["pictures"], []
    total = sum(pictures.values())
    if pictures["infra_error"]:
        lines.append(f"Incomplete: {pictures['infra_error']} of {total} pictures are not scored. Run the same command again to finish.")
    if pictures["model_error"]:
        failed = f"{pictures['model_error']} of {total} pictures could not be made{_reasons(result)}"
        lines.append(f"{failed}; they count as the worst, where a measure has one.")
    empty = sorted(_without(result["scores"]))
    if empty:
        lines.append(f"Nothing to count in {', '.join(empty)}: not in every overall number.")
    return [*lines, *result.get("judged", {}).get("warnings", [])]


def _reasons(result: Mapping[str, Any], most: int = 3) -> str:
    """ " (the picture has NaN or infinite pixels: 2, ...)", the most frequent first."""
    found = sorted(result.get("failed", {}).items(), key=lambda one: -one[1])
    named = [f"{reason}: {number}" for reason, number in found[:most]]
    left = [f"for other reasons: {sum(number for _, number in found[most:])}"] if len(found) > most else []
    return f" ({'; '.join([*named, *left])})" if found else ""


def _without(tree: Mapping[str, Any]) -> set[str]:
    """Groups that some overall number had to leave out."""
    if "without" in tree:
        return set(tree["without"])
    return set().union(*(_without(below) for below in tree.values() if isinstance(below, Mapping)), set())
