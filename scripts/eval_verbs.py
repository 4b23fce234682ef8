"""What `metabridge eval` does beside the stages: show, compare, list, verify, export, import, parity."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.scripts.console import console, rich_table, say
from metabridge.scripts.eval import DATA, exactly
from metabridge.scripts.eval_checks import refuse_idle
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import Evaluation, absolute, data_of, show

if TYPE_CHECKING:
    from metabridge.eval.data import FileState
    from metabridge.eval.suites import Difference


def finished(folder: Path) -> Evaluation:
    """A folder that was scored, as its result.json says."""
    from metabridge.eval import compare

    side = compare.load(folder)
    counts, there = Counter(s.state for s in side.scored), side.result["pictures"]
    if any(counts[state] != number for state, number in there.items()):
        raise UserError(f"{folder}: result.json is not of what is scored there now; make it anew by `metabridge eval score {folder}`")
    return Evaluation(side.plan, folder, side.scored, dict(side.result))


def report(words: Sequence[str], options: Options, out: Path | None) -> None:
    """One folder anew, or several side by side."""
    options.refuse_all_but(("allow_incomplete", *DATA), "report", "it shows what was scored")
    if not words:
        raise UserError("nothing given; write metabridge eval report DIR...")
    if out is None and len(words) > 1:
        raise UserError("-o: missing; several folders side by side want a folder of their own: metabridge eval report DIR DIR -o DIR")
    from metabridge.eval import suite_folder

    found = [suite_folder.read(Path(word)) for word in words]
    if out is None and found[0].done == (Path(words[0]),):
        done = finished(Path(words[0]))
        refuse_idle([done.plan.definition], options)
        return show(done, options)
    options.refuse_all_but((), "a report of several folders", "give it to the report of one of them")
    suites = [([finished(folder) for folder in one.done], one.differences) for one in found]
    overview(out or Path(words[0]), suites, [pair for one in found for pair in one.missing.items()])


def overview(
    folder: Path, suites: Sequence[tuple[Sequence[Evaluation], Sequence[Difference]]], missing: Sequence[tuple[str, Path]] = ()
) -> None:
    """The headlines of several evaluations: a table a variant, each suite's own differences; links to their reports."""
    from rich.markup import escape

    from metabridge.eval import compare, leaderboard
    from metabridge.eval import report as pages

    runs = [([compare.Side(one.folder, one.plan, one.result, one.scored) for one in done], differences) for done, differences in suites]
    page = leaderboard.page(runs, folder, missing)
    for table, _ in page.tables:
        console.print(rich_table(table), "")
    for line in page.warnings:
        console.print(f"[yellow]{escape(line)}")
    say(f"Overview: {pages.write(page, folder / 'report.html')}")


def compare(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Paired differences on the prompts that both folders have, first - second."""
    from metabridge.eval import compare as comparing

    options.refuse_all_but((), "compare", "both folders are scored already")
    refuse_out(out, "compare")
    first, second = (comparing.load(Path(word)) for word in exactly(words, 2, "metabridge eval compare DIR DIR"))
    tables, lines = comparing.tables(first, second)
    for table in tables:
        console.print(rich_table(table), "")
    for line in lines:
        say(line)
    for metric in first.plan.definition.metrics:
        if metric.within == "set":
            say(f"{metric.title or metric.name}: of all pictures together, so not paired; hold the two reports' intervals side by side")


def list_benchmarks(words: Sequence[str], options: Options, out: Path | None) -> None:
    from metabridge.scripts.ls import ls_command

    options.refuse_all_but((), "list", "it lists what there is")
    refuse_out(out, "list")
    exactly(words, 0, "metabridge eval list")
    ls_command("benchmarks", as_json=False)


def verify_data(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Of benchmarks and suites: whether their files are there and are what was pinned, else how to get them; 1 where one is not."""
    from rich.markup import escape
    from rich.table import Table

    from metabridge.eval import benchmarks, data, suites

    options.refuse_all_but(("data",), "verify-data", "it looks at files alone")
    refuse_out(out, "verify-data")
    suite = suites.find(",".join(words or benchmarks.names()))
    table, bad = Table("benchmark", "file", "state", "licence"), 0
    advice: dict[str, None] = {}  # two benchmarks may have the same files
    for benchmark in (entry.benchmark for entry in suite.entries):
        if (spec := benchmark.data) is None:
            table.add_row(benchmark.name, "", "none needed", "")
            continue
        folder = data.locate(spec, options.data)
        states = [*data.verify(spec, folder), *([data.by_hand(spec, folder)] if spec.by_hand else [])]
        for state in states:
            table.add_row(benchmark.name, escape(str(folder / state.name)), told(state), spec.licence)
        bad += sum(state.state in (data.MISSING, data.WRONG) for state in states)
        advice |= dict.fromkeys(data.advice(spec, folder, states))
    console.print(table)
    for line in advice:
        say(line)
    if bad:
        say(f"{bad} files are not as pinned, or not there at all")
        sys.exit(1)


def told(state: FileState) -> str:
    """What is put there by hand has no name of its own."""
    return state.state if state.name else f"{state.state}, by hand"


def refuse_out(out: Path | None, verb: str) -> None:
    if out is not None:
        raise UserError(f"-o: has no effect on {verb}, which prints what it finds; leave it out")


def export(words: Sequence[str], options: Options, out: Path | None) -> None:
    """The pictures of an evaluation in the benchmark's official folder layout, for its official scorer."""
    from metabridge.eval import plan
    from metabridge.eval.generate import drawn, is_drawn

    options.refuse_all_but(("rows",), "export", "it copies pictures alone")
    (word,) = exactly(words, 1, "metabridge eval export DIR -o FOLDER")
    if out is None:
        raise UserError("-o: missing; write metabridge eval export DIR -o FOLDER")
    planned = plan.load(Path(word))
    layout = _layout(planned.definition)
    row = options.rows or "bridge"
    records = drawn(Path(word))
    samples = [s for s in planned.samples() if s.row == row]
    missing = [s for s in samples if not is_drawn(s, records.get(s.key), Path(word))]
    if not samples or missing:
        what = f"{len(missing)} of {len(samples)} pictures are not drawn yet" if samples else f"no row {row} in it"
        raise UserError(f"{word}: {what}; finish it with `metabridge eval generate {word}`")
    failed = {s.key: records[s.key]["reason"] for s in samples if records[s.key]["state"] != "ok"}
    layout.export([(s.item, s.k, Path(word) / s.file) for s in samples if s.key not in failed], out)
    say(f"{len(samples) - len(failed)} pictures in {out}, as the official scorer of {planned.definition.name} wants them")
    if failed:
        first = "; ".join(f"{key}: {reason}" for key, reason in list(failed.items())[:3])
        say(f"{len(failed)} pictures could not be drawn and are not there: {first}{'; ...' if len(failed) > 3 else ''}")


def import_results(words: Sequence[str], options: Options, out: Path | None) -> None:
    """What the official scorer found, as a result of the variant `official`."""
    from metabridge.eval import benchmarks, imported

    options.refuse_all_but((*DATA, "suite", "images"), "import", "the numbers are the official scorer's")
    (word,) = exactly(words, 1, "metabridge eval import FILE --suite NAME -o DIR")
    if out is None or options.suite is None:
        raise UserError("import: write metabridge eval import FILE --suite NAME -o DIR")
    benchmark = benchmarks.load(options.suite)
    refuse_idle([benchmark], options)
    name = absolute(Path(options.suite)) if options.suite.endswith(".yaml") else options.suite
    own = replace(options, data=Path(absolute(options.data))) if options.data else options
    imported.take(benchmark, name, Path(word), data_of(benchmark, own), _results_of(benchmark), out, options.images)
    show(finished(out), Options())


def parity(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Our scores beside the official scorer's on the same pictures: agreement, kappa, where they differ."""
    from metabridge.eval import parity as comparing

    options.refuse_all_but((), "parity", "both are scored already")
    refuse_out(out, "parity")
    folder, file = exactly(words, 2, "metabridge eval parity DIR OFFICIAL_RESULTS")
    done = finished(Path(folder))
    benchmark = done.plan.definition
    metric = benchmark.metrics[0]
    comparing.refuse_of_set(metric)
    ours = comparing.ours_of(done.scored, metric)
    theirs = comparing.official_of(_results_of(benchmark).results(Path(file), list(done.plan.items)), metric, file)
    found = comparing.parity({k: v for k, (v, _) in ours.items()}, {k: v for k, (v, _) in theirs.items()}, metric.weights)
    for line in comparing.lines(found, ours, theirs):
        say(line)


def _results_of(benchmark: Any) -> Any:
    """The layout, where it can read what the official scorer writes."""
    layout = _layout(benchmark)
    if not hasattr(layout, "results"):
        raise UserError(f"{benchmark.name}: the form of its official scorer's results is not known here; only its pictures can be exported")
    return layout


def _layout(benchmark: Any) -> Any:
    layout = benchmark.layout_module()
    if layout is None:
        raise UserError(f"{benchmark.name}: no official folder layout is known for it")
    return layout
