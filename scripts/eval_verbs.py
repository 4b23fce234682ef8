"""What `metabridge eval` does beside the stages: show, compare, list, verify, export, import, parity."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.scripts.console import console, rich_table, say
from metabridge.scripts.eval import exactly
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import Evaluation, data_of, show

if TYPE_CHECKING:
    from metabridge.eval.suites import Suite


def finished(folder: Path) -> Evaluation:
    """A folder that was scored, as its result.json says."""
    from metabridge.eval import plan, result, score, store
    from metabridge.eval.items import Services

    planned = plan.load(folder)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: no result.json there; score it first, by `metabridge eval score {folder}`")
    there = store.read_json(folder / "result.json")
    scoring = there["identity"]["scoring"]
    scored = score.read(planned, folder, score.tag(scoring))
    sets = any(metric.within == "set" for metric in planned.definition.metrics)
    if not sets and any(s.state == "infra_error" for s in scored) != bool(there["pictures"]["infra_error"]):
        there = result.summarize(planned, scored, scoring, Services(None), there.get("judged", {}))
    return Evaluation(planned, folder, scored, there)


def report(words: Sequence[str], options: Options, out: Path | None) -> None:
    """One folder anew, or several side by side."""
    options.refuse_all_but(("allow_incomplete", "data"), "report", "it shows what was scored")
    if not words:
        raise UserError("nothing given; write metabridge eval report DIR...")
    folders = [one for word in words for one in _results_below(Path(word))]
    if len(folders) == 1 and out is None:
        return show(finished(folders[0]), options)
    from metabridge.eval.suites import Suite

    if out is None and len(words) > 1:
        raise UserError("-o: missing; several folders side by side want a folder of their own: metabridge eval report DIR DIR -o DIR")
    overview(out or Path(words[0]), [finished(folder) for folder in folders], Suite(()))


def _results_below(folder: Path) -> list[Path]:
    """The folder itself, or the evaluations of a suite below it."""
    if (folder / "plan.json").exists() or not folder.is_dir():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/result.json"))
    if not found:
        raise UserError(
            f"{folder}: no evaluation there: neither plan.json nor a folder with result.json; give what `metabridge eval -o` wrote"
        )
    return found


def overview(folder: Path, done: Sequence[Evaluation], suite: Suite) -> None:
    """The headlines of several evaluations: a row a benchmark and variant, a column a model; links to their reports."""
    from metabridge.eval import compare, leaderboard
    from metabridge.eval import report as pages

    sides = {one.plan.definition.name: compare.load(one.folder) for one in done}
    gaps = [
        (d, compare.across(sides[d.first], sides[d.second], d.name)) for d in suite.differences if d.first in sides and d.second in sides
    ]
    page = leaderboard.page([(one.plan.definition, one.result, one.folder) for one in done], gaps, folder)
    for table, _ in page.tables:
        console.print(rich_table(table), "")
    say(f"Overview: {pages.write(page, folder / 'report.html')}")


def compare(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Paired differences on the prompts that both folders have, first - second."""
    from metabridge.eval import compare as comparing

    options.refuse_all_but((), "compare", "both folders are scored already")
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

    exactly(words, 0, "metabridge eval list")
    ls_command("benchmarks", as_json=False)


def verify_data(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Whether the files of benchmarks are there and are what was pinned; 1 where one is not."""
    from rich.markup import escape
    from rich.table import Table

    from metabridge.eval import benchmarks, data

    options.refuse_all_but(("data",), "verify-data", "it looks at files alone")
    chosen = [benchmarks.load(word) for word in words or benchmarks.names()]
    table = Table("benchmark", "file", "state", "licence")
    bad = 0
    for benchmark in chosen:
        if benchmark.data is None:
            continue
        folder = data.locate(benchmark.data, options.data)
        for state in data.verify(benchmark.data, folder):
            bad += state.state != "ok"
            table.add_row(benchmark.name, escape(str(folder / state.name)), state.state, benchmark.data.licence)
    console.print(table)
    if bad:
        say(f"{bad} files are not as pinned; an evaluation fetches what is missing, and refuses what is wrong")
        sys.exit(1)


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
    failed = [s.key for s in samples if records[s.key]["state"] != "ok"]
    layout.export([(s.item, s.k, Path(word) / s.file) for s in samples if s.key not in failed], out)
    say(f"{len(samples) - len(failed)} pictures in {out}, as the official scorer of {planned.definition.name} wants them")
    if failed:
        say(f"{len(failed)} pictures came out as NaN and are not there: {', '.join(failed[:3])} ...")


def import_results(words: Sequence[str], options: Options, out: Path | None) -> None:
    """What the official scorer found, as a result of the variant `official`."""
    from metabridge.eval import benchmarks, imported

    options.refuse_all_but(("suite", "data", "accept_licence", "images"), "import", "the numbers are the official scorer's")
    (word,) = exactly(words, 1, "metabridge eval import FILE --suite NAME -o DIR")
    if out is None or options.suite is None:
        raise UserError("import: write metabridge eval import FILE --suite NAME -o DIR")
    benchmark = benchmarks.load(options.suite)
    imported.take(benchmark, options.suite, Path(word), data_of(benchmark, options), _results_of(benchmark), out, options.images)
    show(finished(out), Options())


def parity(words: Sequence[str], options: Options, out: Path | None) -> None:
    """Our scores beside the official scorer's on the same pictures: agreement, kappa, where they differ."""
    from metabridge.eval import parity as comparing

    options.refuse_all_but((), "parity", "both are scored already")
    folder, file = exactly(words, 2, "metabridge eval parity DIR OFFICIAL_RESULTS")
    done = finished(Path(folder))
    benchmark = done.plan.definition
    metric = benchmark.metrics[0]
    official = _results_of(benchmark).results(Path(file), [item for item in done.plan.items])
    ours = {
        (s.sample.item.group, s.sample.item.id, s.sample.k): (s.values[metric.source], s.reason)
        for s in done.scored
        if s.sample.row == "bridge" and metric.source in s.values
    }
    theirs: dict[Any, tuple[float, str]] = {key: (values[metric.source], reason) for key, values, reason in official}
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
