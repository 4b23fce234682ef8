"""`metabridge eval`: plan -> generate -> score -> report, in one or a stage at a time."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

STAGES = ("plan", "generate", "score", "report", "compare", "list")
console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)  # tables in a file or a pipe keep their lines whole


def eval_command(
    words: Sequence[str],
    suite: str,
    limit: int | None,
    images: int | None,
    baseline: bool,
    steps: int | None,
    guidance: float | None,
    out: Path | None,
) -> None:
    stage, rest = (words[0], list(words[1:])) if words[0] in STAGES else ("", list(words))
    options = {"--limit": limit, "--images": images, "--no-baseline": None if baseline else True, "--steps": steps, "--guidance": guidance}
    given = [name for name, value in {**options, "-o": out}.items() if value is not None]
    if stage in ("", "plan"):
        (bridge,) = exactly(rest, 1, f"metabridge eval {stage and stage + ' '}BRIDGE -o DIR")
        return evaluate(bridge, suite, limit, images, baseline, steps, guidance, out, only_plan=stage == "plan")
    if given:
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


def evaluate(
    bridge: str,
    suite: str,
    limit: int | None,
    images: int | None,
    baseline: bool,
    steps: int | None,
    guidance: float | None,
    out: Path | None,
    only_plan: bool,
) -> None:
    from metabridge.eval import benchmarks
    from metabridge.scripts.generate import load

    benchmarks.load(suite)
    pipeline = load(bridge)
    folder = out or Path("evals") / Path(bridge).name
    planned = make_plan(pipeline, folder, suite, limit=limit, images=images, baseline=baseline, steps=steps, guidance=guidance)
    say_plan(planned, folder)
    if only_plan:
        return
    draw(planned, folder, pipeline)
    finish(planned, score(planned, folder), folder)


def run_stage(stage: str, folder: Path) -> None:
    """One stage on a folder that was planned before."""
    from metabridge.eval import plan
    from metabridge.eval.score import read

    planned = plan.load(folder)
    if stage == "generate":
        from metabridge.scripts.generate import load

        bridge = planned.identity["bridge"]
        pipeline = load(bridge["name"])
        if (found := describe(pipeline)["fingerprint"]) != bridge["fingerprint"]:
            raise UserError(f"{bridge['name']}: fingerprint {found[:16]}, planned was {bridge['fingerprint'][:16]}; plan anew with -o")
        draw(planned, folder, pipeline)
    elif stage == "score":
        score(planned, folder)
    else:
        finish(planned, read(planned, folder), folder)


def make_plan(
    pipeline: BridgePipeline,
    folder: Path,
    suite: str = "flatland",
    *,
    limit: int | None = None,
    images: int | None = None,
    baseline: bool = True,
    steps: int | None = None,
    guidance: float | None = None,
) -> Plan:
    """The plan in the folder, made if it is not there."""
    from metabridge.eval import plan

    hand = pipeline.bridge.hand
    if baseline and hand.describe([""]) is None:
        console.print("the hand has no text encoder of its own: no baseline")
        baseline = False
    generation = {
        "num_inference_steps": hand.default_steps if steps is None else steps,
        "guidance_scale": hand.default_guidance if guidance is None else guidance,
        "height": hand.default_size[0],
        "width": hand.default_size[1],
        "think_mode": "always",
        "batch_size": pipeline.batch_size,
    }
    made = plan.make(suite, describe(pipeline), generation, code(), limit=limit, images=images, baseline=baseline)
    return plan.save(made, folder)


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
    console.print(
        f"{benchmark['name']} v{benchmark['version']}: {len(planned.items)} prompts x {benchmark['images_per_prompt']}, "
        f"{len(samples)} pictures ({counts}) into {folder}",
        soft_wrap=True,
    )


def draw(planned: Plan, folder: Path, pipeline: BridgePipeline, label: str = "drawing") -> None:
    from metabridge.eval.generate import generate

    with bar(label, len(planned.samples())) as hear:
        generate(planned, folder, pipeline, hear)


def score(planned: Plan, folder: Path) -> list[Scored]:
    from metabridge.eval import result
    from metabridge.eval.score import score as score_pictures

    scored = score_pictures(planned, folder)
    result.write(result.summarize(planned, scored), folder)
    return scored


def finish(planned: Plan, scored: Sequence[Scored], folder: Path) -> None:
    """Tables on the console, the same and the contact sheets in report.html."""
    from metabridge.eval import report, result

    summary = result.summarize(planned, scored)
    results = {"bridge": summary}
    for table in (report.composition(results), report.reasoning(results), *report.held_out(summary)):
        console.print(rich_table(table), "")
    for line in report.warnings(summary):
        console.print(f"[yellow]{line}")
    result.write(summary, folder)
    page = report.write(report.page(planned, scored, summary, folder), folder / "report.html")
    console.print(f"95% intervals over prompts. Result: {folder / 'result.json'}, report: {page}", soft_wrap=True)


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


def rich_table(table: Table) -> RichTable:
    rich = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(table.columns):
        rich.add_column(column, justify="right" if number else "left")
    for label, entries in table.rows:
        # [0.50, 1.00] as [.50 1]: a table of four numbers then fits a terminal of 80 columns
        small = (re.sub(r"\b0\.", ".", e.interval).replace(",", "").replace("1.00", "1") for e in entries)
        cells = (f"{e.value} [dim]{escape(interval)}[/dim]" for e, interval in zip(entries, small, strict=True))
        rich.add_row(label, *cells, style="bold" if label == "overall" else "")
    return rich


@contextmanager
def bar(label: str, total: int) -> Iterator[Hear]:
    """A bar with rate and time left; without a terminal about ten lines."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    start, done, drawn, told = time.monotonic(), 0, 0, 0
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total, pace="")

        def hear(pictures: int, fresh: bool) -> None:
            nonlocal start, done, drawn, told
            done, drawn = done + pictures, drawn + pictures * fresh
            if not fresh:
                start = time.monotonic()
            rate = drawn / max(time.monotonic() - start, 1e-9)
            pace = f"{rate:.1f} pictures/s  ETA {(total - done) / rate:.0f} s" if drawn else ""
            progress.update(task, completed=done, pace=pace)
            if progress.disable and drawn and (done - told >= total / 10 or done == total):
                console.print(f"{label} {done}/{total}  {pace}")
                told = done

        yield hear
