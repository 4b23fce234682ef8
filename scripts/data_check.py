"""`metabridge data check`: what a source holds, in tables, as a sheet and as JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Objective, Source, Train
from metabridge.scripts.data import named
from metabridge.scripts.output import rows_a_second, rows_progress, write_asked

if TYPE_CHECKING:
    from rich.console import Console

    from metabridge.bridge.recipe import Recipe
    from metabridge.training.contamination import Benchmarks
    from metabridge.training.feeds import Feed
    from metabridge.training.frames import Frames
    from metabridge.training.survey import Survey

BENCH_DATA = "METABRIDGE_BENCH_DATA"
SIZE, MAX_ASPECT = 512, 2.0
MEMBER = re.compile(r"__.*|json|(\w+\.)?(jpe?g|png|webp)")  # of a tar: what `image`, `images` and the JSON's texts are made of
ENDLESS = 1_000  # rows that are looked at of a source that makes them, unless --rows says less


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    rows: int
    size: int | None
    max_aspect: float | None
    decode: bool
    sheet: Path | None
    json_file: Path | None
    against: Sequence[Path]
    max_bad: float | None
    max_contaminated: float


def check_command(what: str, options: Sequence[str], asked: Asked) -> None:
    from rich.console import Console

    from metabridge.scripts.data_report import print_report
    from metabridge.scripts.data_sheet import Samples
    from metabridge.training.sources import open_source, resolve

    for name, path in (("--sheet", asked.sheet), ("--json", asked.json_file)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{name} {path}: no such folder; make {path.parent} first, or give another path")
    if asked.sheet is not None and asked.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {asked.sheet}: a sheet is written as .png; give a name that ends in .png")
    console = Console(highlight=False)
    found = named(what, options)
    console.print(found.said, markup=False, soft_wrap=True)
    benchmarks = lists_of(asked.against)
    frames, cut = frames_of(found.recipe, asked)
    max_bad = asked.max_bad if asked.max_bad is not None else found.recipe.train.max_bad_rows if found.recipe else Train().max_bad_rows
    samples = Samples(frames)
    reports, faults = [], []
    for number, source in enumerate(found.sources):
        feed, _ = open_source(source, found.recipe.objective if found.recipe else Objective(), 0, number)
        resolved = resolve(source)
        survey = look(feed, asked, frames, benchmarks, samples, console)
        report = {**facts(resolved, feed), "cut_to": cut, **survey.report()}
        report["columns_not_read"] = unread(report["columns"], report["fields"])
        print_report(report, console, source.weight / sum(s.weight for s in found.sources) if len(found.sources) > 1 else None)
        reports.append(report)
        faults += [f"data {source.source}: {fault}" for fault in wrong(report, max_bad, asked.max_contaminated)]
    if asked.json_file is not None:
        write_asked("--json", asked.json_file, (json.dumps(reports, indent=1, ensure_ascii=False) + "\n").encode())
    if asked.sheet is not None:
        write_asked("--sheet", asked.sheet, samples.png(found.said))
        console.print(f"samples: {asked.sheet}", markup=False, soft_wrap=True)
    for fault in faults:
        print(f"metabridge: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)


def lists_of(against: Sequence[Path]) -> Benchmarks:
    """Prompts of every benchmark at hand: the shipped ones, those of METABRIDGE_BENCH_DATA, those of --against."""
    from metabridge.eval import benchmarks
    from metabridge.training.contamination import Benchmarks, read_lists

    lists: dict[str, list[str]] = {}
    for name in benchmarks.names():
        if (shipped := benchmarks.load(name)).data is None:
            lists[name] = [item.text for item in shipped.items(None)]
    folder = os.environ.get(BENCH_DATA)
    for path in [*([Path(folder)] if folder else []), *against]:
        for name, prompts in read_lists(path.expanduser()).items():
            lists.setdefault(name, []).extend(prompts)
    return Benchmarks(lists)


def frames_of(recipe: Recipe | None, asked: Asked) -> tuple[Frames, str]:
    """The sizes that pictures would be cut to, and what decided them."""
    from metabridge.training.frames import Frames
    from metabridge.training.survey import Multiples

    train: Train = recipe.train if recipe else Train(max_aspect=MAX_ASPECT)
    side = asked.size or train.size
    wanted = Train(size=side, max_aspect=asked.max_aspect or train.max_aspect, upscale=train.upscale)
    stand_in: Any = Multiples(side or SIZE)
    if recipe is not None and not asked.size:
        try:
            hand = hand_without_weights(recipe)
            return Frames.of(hand, wanted), f"sizes of the recipe's hand, {recipe.hand.name}"
        except UserError as error:
            why = f"sides in multiples of {stand_in.step}, as the recipe's hand cannot be asked: {error}"
    else:
        why = f"near {side or SIZE} x {side or SIZE}, sides in multiples of {stand_in.step}"
    return Frames.of(stand_in, wanted), why


def hand_without_weights(recipe: Recipe) -> Any:
    from metabridge.adapters import load
    from metabridge.adapters.skeleton import without_weights
    from metabridge.scripts.quiet import quiet

    quiet()
    with without_weights():
        return load("hands", recipe.hand)


def look(feed: Feed, asked: Asked, frames: Frames, benchmarks: Benchmarks, samples: Any, console: Console) -> Survey:

    from metabridge.training.feeds import Made, Tabled
    from metabridge.training.survey import Survey, rows_of, table_rows

    survey = Survey(frames, benchmarks, asked.decode)
    total = table_rows(feed) if isinstance(feed, Tabled) else None
    count = asked.rows or total or sys.maxsize
    if isinstance(feed, Made):
        count = min(asked.rows or ENDLESS, ENDLESS)
    planned = min(count, total or count)
    samples.begin(planned)
    with rows_progress(console) as progress:
        known = planned if planned < sys.maxsize else None
        task = progress.add_task("looking at rows", total=known, rate="")
        for row in rows_of(feed, count):
            example = survey.add(row)
            if example is not None and asked.sheet is not None:
                samples.offer(survey.seen, example)
            progress.update(task, advance=1, rate=rows_a_second(progress, task))
    return survey


def facts(source: Source, feed: Feed) -> dict[str, Any]:
    """What is known of a source before a row is looked at."""
    from metabridge.training.feeds import Made, Streamed, Tabled
    from metabridge.training.survey import table_rows

    fields: Mapping[str, Sequence[str]] = {} if isinstance(feed, Made) else feed.schema.fields  # type: ignore[attr-defined]
    return {
        "source": source.source,
        "options": dict(source.options),
        "task": source.task,
        "reads": "drawn from a seed" if isinstance(feed, Made) else "streamed" if isinstance(feed, Streamed) else "table",
        "fields": {field: list(paths) for field, paths in fields.items()},
        "rows": table_rows(feed) if isinstance(feed, Tabled) else None,
        "held_out": len(feed.order.held_out) if isinstance(feed, Tabled) else None,
    }


def unread(columns: Mapping[str, int], fields: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Columns that no field comes from, with how many rows have them."""
    read = {name for paths in fields.values() for path in paths for name in (path, path.split(".")[0])}
    return {name: count for name, count in columns.items() if name not in read and not MEMBER.fullmatch(name)}


def wrong(report: Mapping[str, Any], max_bad: float, max_contaminated: float) -> list[str]:
    """Why these rows should not be trained on as they are."""
    from metabridge.training.survey import TOO_SMALL

    seen, usable = report["rows_looked_at"], report["usable"]
    faults = []
    if seen - usable > max_bad * seen or not usable:
        reason, group = next(iter(report["bad"].items()), ("there are none", {"rows": 0}))
        share = "none of its rows can be used" if not usable else f"{(seen - usable) / seen:.1%} of the rows cannot be used"
        advice = "give a smaller --size, or set train.upscale=true in a recipe" if reason.startswith(TOO_SMALL) else "mend them or the map"
        limit = f", more than {max_bad:.1%} (--max-bad)" if usable else ""
        faults.append(f"{share}{limit}; {group['rows']} of {seen}: {reason}; {advice}")
    if report["contaminated_rows"] > max_contaminated * seen:
        share = f"{report['contaminated_rows'] / seen:.2%} of the rows have a prompt of a benchmark"
        faults.append(f"{share}, more than {max_contaminated:.2%} (--max-contaminated); leave them out, or give no score on it")
    return faults
