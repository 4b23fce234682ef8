"""`metabridge eval`: plan -> generate -> score -> report, in one or a stage at a time."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from metabridge.bridge.errors import UserError

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline
    from metabridge.eval.generate import Progress as Hear
    from metabridge.eval.plan import Plan
    from metabridge.eval.report import Table
    from metabridge.eval.score import Scored

SUITE = "flatland"  # unless --suite says otherwise
STAGES = ("plan", "generate", "score", "report", "compare", "list")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)  # tables in a file or a pipe keep their lines whole


@dataclass(frozen=True)
class Options:
    """What is drawn and how; None is the benchmark's or the hand's default."""

    suite: str | None = None
    limit: tuple[str, ...] = ()  # "20", "reasoning=8", "single=40"
    images: int | None = None
    baseline: bool = True
    steps: int | None = None
    guidance: float | None = None
    quantize: str | None = None

    def words(self) -> list[str]:
        """As they are written on the command line."""
        words = [] if self.suite is None else ["--suite", self.suite]
        for limit in self.limit:
            words += ["--limit", limit]
        for name in ("images", "steps", "guidance"):
            if (value := getattr(self, name)) is not None:
                words += [f"--{name}", f"{value:g}"]
        if self.quantize is not None:
            words += ["--quantize", self.quantize]
        return words if self.baseline else [*words, "--no-baseline"]


@dataclass(frozen=True)
class Evaluation:
    """A folder whose pictures are scored."""

    folder: Path
    scored: Sequence[Scored]
    result: dict[str, Any]


def eval_command(words: Sequence[str], options: Options, out: Path | None) -> None:
    stage, rest = (words[0], list(words[1:])) if words[0] in STAGES else ("", list(words))
    if stage in ("", "plan"):
        (bridge,) = exactly(rest, 1, f"metabridge eval {stage and stage + ' '}BRIDGE -o DIR")
        return evaluate(bridge, options, out or Path("evals") / Path(bridge).name, only_plan=stage == "plan")
    if given := [*options.words(), *(["-o"] if out else [])]:
        raise UserError(f"{given[0]}: has no effect on {stage}; the folder's plan.json says what is drawn")
    if stage == "list":
        from metabridge.scripts.ls import ls_command

        exactly(rest, 0, "metabridge eval list")
        return ls_command("benchmarks", as_json=False)
    if stage == "compare":
        return compare(*(Path(word) for word in exactly(rest, 2, "metabridge eval compare DIR DIR")))
    run_stage(stage, Path(exactly(rest, 1, f"metabridge eval {stage} DIR")[0]))


def exactly(words: Sequence[str], count: int, usage: str) -> Sequence[str]:
    if len(words) != count:
        raise UserError(f"{shlex.join(words) or 'nothing'} given; write {usage}")
    return words


def evaluate(bridge: str, options: Options, folder: Path, only_plan: bool) -> None:
    from metabridge.eval import benchmarks
    from metabridge.scripts.generate import load

    benchmarks.load(options.suite or SUITE)
    limits(options.limit)
    pipeline = load(bridge, options.quantize)
    planned = make_plan(pipeline, folder, options)
    say_plan(planned, folder)
    if only_plan:
        return
    draw(planned, folder, pipeline)
    show(score(planned, folder))


def run_stage(stage: str, folder: Path) -> None:
    """One stage on a folder that was planned before."""
    from metabridge.eval import plan
    from metabridge.eval.score import read

    planned = plan.load(folder)
    if stage == "generate":
        from metabridge.scripts.generate import load

        bridge = planned.identity["bridge"]
        pipeline = load(bridge["name"], bridge["brain"].get("quantize", "none"))
        if (found := describe(pipeline)["fingerprint"]) != bridge["fingerprint"]:
            raise UserError(f"{bridge['name']}: fingerprint {found[:16]}, planned was {bridge['fingerprint'][:16]}; plan anew with -o")
        draw(planned, folder, pipeline)
    elif stage == "score":
        done = score(planned, folder)
        right, states = sum(s.correct for s in done.scored), done.result["pictures"]
        counts = ", ".join(f"{state} {number}" for state, number in states.items())
        say(f"{len(done.scored)} pictures ({counts}): {right} right. Result: {folder / 'result.json'}")
    else:
        show(summarize(planned, read(planned, folder), folder))


def make_plan(pipeline: BridgePipeline, folder: Path, options: Options, rows: Sequence[str] | None = None) -> Plan:
    """The plan in the folder, made if it is not there. `rows`: ways to draw; all of the benchmark's unless given."""
    from metabridge.eval import plan

    hand = pipeline.bridge.hand
    rows = [row for row in rows or plan.ROWS if options.baseline or row != "native"]
    if "native" in rows and hand.describe([""]) is None:
        say("the hand has no text encoder of its own: no baseline")
        rows.remove("native")
    generation = {
        "num_inference_steps": hand.default_steps if options.steps is None else options.steps,
        "guidance_scale": hand.default_guidance if options.guidance is None else options.guidance,
        "height": hand.default_size[0],
        "width": hand.default_size[1],
        "think_mode": "always",
        "batch_size": pipeline.batch_size,
    }
    suite, limit = options.suite or SUITE, limits(options.limit)
    made = plan.make(suite, describe(pipeline), generation, code(), limit=limit, images=options.images, rows=rows)
    return plan.save(made, folder)


def limits(words: Sequence[str]) -> dict[str, int]:
    """("20", "single=40") -> {"all": 20, "single": 40}."""
    found = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        if not number.isdecimal() or (equals and not name):
            raise UserError(f"--limit {word}: give a number of prompts, as 20, or one of a part, tag or kind, as reasoning=8")
        found[name or "all"] = int(number)
    return found


def describe(pipeline: BridgePipeline) -> dict[str, Any]:
    """Who is evaluated: by fingerprint, with the base it stands on."""
    from metabridge.bridge.artifact import fingerprint

    bridge = pipeline.bridge
    trained = fingerprint(bridge.trained())
    return {"name": pipeline.name, "fingerprint": trained, "brain": bridge.brain.identity, "hand": bridge.hand.identity}


def code() -> dict[str, str]:
    """Our version, and the commit where this is a checkout of ours."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        # asking must not touch the repository: a plain `git status` takes its lock to refresh the index
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(here.parent), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # and not some other repository around an installed package
        commit = git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"version": version("metabridge"), "commit": commit}


def say_plan(planned: Plan, folder: Path) -> None:
    benchmark, rows = planned.benchmark, planned.identity["generation"]["rows"]
    samples = planned.samples()
    counts = ", ".join(f"{row} {sum(s.row == row for s in samples)}" for row in rows)
    say(
        f"{benchmark['name']} v{benchmark['version']}: {len(planned.items)} prompts x {benchmark['images_per_prompt']}, "
        f"{len(samples)} pictures ({counts}) into {folder}"
    )


def draw(planned: Plan, folder: Path, pipeline: BridgePipeline, label: str = "drawing") -> None:
    from metabridge.eval.generate import generate

    with bar(label, len(planned.samples())) as hear:
        generate(planned, folder, pipeline, hear)


def score(planned: Plan, folder: Path) -> Evaluation:
    from metabridge.eval.score import score as score_pictures

    return summarize(planned, score_pictures(planned, folder), folder)


def summarize(planned: Plan, scored: Sequence[Scored], folder: Path) -> Evaluation:
    from metabridge.eval import result

    summary = result.summarize(planned, scored)
    result.write(summary, folder)
    return Evaluation(folder, scored, summary)


def show(done: Evaluation) -> None:
    """Tables on the console, the same and the contact sheets in report.html."""
    from metabridge.eval import report

    results = {"bridge": done.result}
    for table in (report.composition(results), report.reasoning(results), *report.held_out(done.result)):
        console.print(rich_table(table), "")
    for line in report.warnings(done.result):
        console.print(f"[yellow]{line}")
    page = report.write(report.page(done.scored, done.result, done.folder), done.folder / "report.html")
    say(f"95% intervals over prompts. Result: {done.folder / 'result.json'}, report: {page}")


def compare(first: Path, second: Path) -> None:
    """Paired differences on the prompts that both folders have, first - second."""
    from metabridge.eval import plan, report, result
    from metabridge.eval.score import read

    plans = [plan.load(first), plan.load(second)]
    if len({p.benchmark["name"] for p in plans}) > 1 or plans[0].benchmark["base_seed"] != plans[1].benchmark["base_seed"]:
        raise UserError(f"{first} and {second} hold different benchmarks; compare two evaluations of the same one")
    scored = [{s.sample.key: s for s in read(p, f) if not s.sample.item.held_out} for p, f in zip(plans, (first, second), strict=True)]
    shared = [(one, scored[1][key]) for key, one in scored[0].items() if key in scored[1]]
    for row, part, title in report.SECTIONS:
        pairs = [(a, b) for a, b in shared if (a.sample.row, a.sample.item.part) == (row, part)]
        if pairs:
            groups = result.group([a for a, _ in pairs]), result.group([b for _, b in pairs])
            gap = result.differences([a for a, _ in pairs], [b for _, b in pairs])
            console.print(rich_table(report.comparison(title, (str(first), str(second)), groups, gap)))


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
