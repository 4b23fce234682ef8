"""What `metabridge data check` prints of a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BAR = 30  # characters
SHOWN = 3  # examples of a kind
SPREAD = ("min", "low", "median", "high", "max")


def print_report(report: Mapping[str, Any], console: Console, share: float | None) -> None:
    """`share`: of the recipe's rows, where it has several sources."""
    console.print()
    console.print(heading(report, share), markup=False, soft_wrap=True, style="bold")
    for name, line in lines(report):
        console.print(f"{name:<14} {line}", markup=False, soft_wrap=True)
    if report["caption_words"]:
        console.print()
        console.print(spread_table(report))
    if report["buckets"]:
        console.print(f"\ncut to {report['cut_to']}", markup=False, soft_wrap=True, style="bold")
        console.print(bucket_table(report))
    if report["bad"]:
        print_groups("cannot be used", {reason: (g["rows"], g["examples"]) for reason, g in report["bad"].items()}, console)
    if report["contamination"]:
        hits = {f"{hit['benchmark']}, {hit['how']}": (hit["rows"], hit["examples"]) for hit in report["contamination"]}
        print_groups("prompts that stand in a benchmark", hits, console)
    console.print()


def heading(report: Mapping[str, Any], share: float | None) -> str:
    options = ", ".join(f"{key}={value}" for key, value in report["options"].items() if key != "map")
    weight = "" if share is None else f"; {share:.0%} of the recipe's rows"
    return f"{report['source']}, {report['task']}" + (f" ({options})" if options else "") + weight


def lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    seen, usable = report["rows_looked_at"], report["usable"]
    total = report["rows"]
    of = f"{total:,}" if total is not None else f"not known ({report['reads']})"
    held = f", {report['held_out']:,} of them held out" if report["held_out"] else ""
    how = "every picture decoded" if report["decoded"] else "pictures' headers read alone"
    found = [
        ("rows", f"{of}{held}; looked at {'all' if seen == total else f'the first {seen:,} in the order of training'}, {how}"),
        ("usable", f"{usable:,} of {seen:,} ({share_of(usable, seen)})"),
    ]
    if report["fields"]:
        fields = ", ".join(f"{field} <- {' + '.join(paths)}" for field, paths in report["fields"].items())
        unread = ", ".join(f"{name} ({share_of(count, seen)} of the rows)" for name, count in report["columns_not_read"].items())
        found.append(("columns", fields + (f"; not read: {unread}" if unread else "")))
    having = {name: count for name, count in report["with"].items() if count}
    if having:
        found.append(("with", ", ".join(f"{name} {share_of(count, seen)}" for name, count in having.items())))
    doubled = "; ".join(f"{count:,} x “{short(prompt)}”" for prompt, count in report["doubled_prompts"].items())
    found.append(("prompts", f"{report['distinct_prompts']:,} distinct" + (f"; most often {doubled}" if doubled else "")))
    compared = sum(report["compared_with"].values())
    which = f"{compared:,} prompts of benchmarks ({', '.join(listed(report['compared_with']))}) and GenEval's templates"
    found.append(
        ("contamination", f"{report['contaminated_rows']:,} rows ({share_of(report['contaminated_rows'], seen)}), against {which}")
    )
    return found


def listed(names: Mapping[str, int], most: int = 4) -> list[str]:
    shown = list(names)[:most]
    return [*shown, f"{len(names) - most} more"] if len(names) > most else shown


def share_of(count: int, total: int) -> str:
    """In percent; never 0% of some, nor 100% of fewer than all."""
    if not total or count in (0, total):
        return "0%" if not count else "100%"
    percent = 100 * count / total
    return "<0.1%" if percent < 0.05 else ">99.9%" if percent > 99.95 else f"{percent:.1f}%"


def short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def spread_table(report: Mapping[str, Any]) -> Table:
    table = plain_table("", "least", "quarter below", "median", "quarter above", "most")
    names = {"width": "width", "height": "height", "megapixels": "megapixels", "caption_words": "words of a caption"}
    for key, name in names.items():
        if report[key]:
            table.add_row(name, *(f"{report[key][at]:,}" for at in SPREAD))
    return table


def bucket_table(report: Mapping[str, Any]) -> Table:
    buckets: dict[str, int] = report["buckets"]
    total, most = sum(buckets.values()), max(buckets.values())
    table = plain_table("width x height", "rows", "", "")
    table.columns[3].justify = "left"
    for size, count in buckets.items():
        table.add_row(size, f"{count:,}", share_of(count, total), bar(count / most))
    return table


def plain_table(*columns: str) -> Table:
    """A line under the heads; numbers on the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def bar(share: float) -> str:
    """In eighths of a character."""
    eighths = max(1, round(share * BAR * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def print_groups(title: str, groups: Mapping[str, tuple[int, list[str]]], console: Console) -> None:
    """How many of each kind, and the first ones."""
    console.print(f"\n{title}", style="bold")
    width = max(len(f"{count:,}") for count, _ in groups.values())
    for kind, (count, examples) in groups.items():
        console.print(f"{count:>{width},}  {kind}", markup=False, soft_wrap=True)
        for example in examples[:SHOWN]:
            console.print(f"{'':{width}}  {short(example, 150)}", markup=False, soft_wrap=True, style="dim")
