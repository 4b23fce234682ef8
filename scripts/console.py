"""What commands print: lines, tables, bars with rate and time left."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from metabridge.eval.generate import Progress as Hear
    from metabridge.eval.tables import Table

console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)  # tables in a file or a pipe keep their lines whole


def say(line: str) -> None:
    """A line as it is: a path may hold what would be markup."""
    console.print(line, markup=False, soft_wrap=True)


def rich_table(table: Table) -> RichTable:
    rich = RichTable(title=escape(table.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(table.columns):
        rich.add_column(escape(column), justify="right" if number else "left")
    for label, entries in table.rows:
        # [0.50, 1.00] as [.50 1]: a table of four numbers then fits a terminal of 80 columns
        small = (re.sub(r"\b0\.", ".", e.interval).replace(",", "").replace("1.00", "1") for e in entries)
        cells = (f"{e.value} [dim]{escape(interval)}[/dim]" for e, interval in zip(entries, small, strict=True))
        rich.add_row(escape(label), *cells, style="bold" if label == "overall" else "")
    return rich


@contextmanager
def bar(label: str, total: int) -> Iterator[Hear]:
    """A bar with rate and time left; without a terminal about ten lines."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    start, done, drawn, told = time.monotonic(), 0, 0, 0
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(label), total=total, pace="")

        def hear(pictures: int, fresh: bool) -> None:
            nonlocal start, done, drawn, told
            done, drawn = done + pictures, drawn + pictures * fresh
            if not fresh:
                start = time.monotonic()
            rate = drawn / max(time.monotonic() - start, 1e-9)
            pace = f"{rate:.1f} pictures/s  ETA {(total - done) / rate:.0f} s" if drawn else ""
            progress.update(task, completed=done, pace=pace)
            if progress.disable and drawn and (done - told >= total / 10 or done == total):
                say(f"{label} {done}/{total}  {pace}")
                told = done

        yield hear
