"""The stages of an evaluation, as the commands call them: who is evaluated, plan, draw, score, summarize, show."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError
from metabridge.scripts.console import bar, console, rich_table, say
from metabridge.scripts.eval_checks import device_of, judge_of, models_of
from metabridge.scripts.eval_options import Options

if TYPE_CHECKING:
    from metabridge.bridge.pipeline import BridgePipeline
    from metabridge.eval.benchmarks import Benchmark
    from metabridge.eval.items import Scorer, Services
    from metabridge.eval.plan import Plan
    from metabridge.eval.score import Scored
    from metabridge.eval.subjects import Subject


@dataclass(frozen=True)
class Evaluation:
    """A folder whose pictures are scored."""

    plan: Plan
    folder: Path
    scored: Sequence[Scored]
    result: dict[str, Any]


def subject_of(word: str, benchmark: Benchmark, options: Options, dtype: str | None = None) -> Subject:
    """BRIDGE, images:DIR, diffusers:REPO or endpoint:URL#MODEL. `dtype` of a pipeline that was planned in another place."""
    kind, colon, rest = word.partition(":")
    if options.max_image_calls is not None and kind != "endpoint":
        raise UserError(f"--max-image-calls: has no effect on {word}; it is for endpoint:URL#MODEL")
    if colon and kind in ("images", "diffusers", "endpoint"):
        if options.quantize is not None:
            raise UserError(f"--quantize: has no effect on {kind}:; it is for a bridge's brain")
        if kind == "images":
            from metabridge.eval.subjects import pictures

            return pictures.load(rest, benchmark=benchmark, data=data_of(benchmark, options))
        if kind == "diffusers":
            from metabridge.eval.subjects import pipeline

            return pipeline.load(rest, benchmark=benchmark, device=device_of(options), dtype=dtype)
        from metabridge.eval.subjects import endpoint

        return endpoint.load(rest, benchmark=benchmark, max_calls=options.max_image_calls)
    from metabridge.scripts.generate import load

    return of_pipeline(load(word, options.quantize))


def of_pipeline(pipeline: BridgePipeline) -> Subject:
    """A bridge as the subject: by fingerprint, with the base it stands on."""
    from metabridge.bridge.artifact import fingerprint
    from metabridge.eval.subjects.bridge import BridgeSubject

    bridge = pipeline.bridge
    own = {"name": pipeline.name, "fingerprint": fingerprint(bridge.trained())}
    return BridgeSubject(pipeline, {**own, "brain": bridge.brain.identity, "hand": bridge.hand.identity})


def make_plan(
    subject: Subject, folder: Path, options: Options, rows: Sequence[str] | None = None, benchmark: Benchmark | None = None
) -> Plan:
    """The plan in the folder, made if it is not there. `rows`: ways to draw where --rows says nothing; else the benchmark's."""
    return save_plan(new_plan(subject, options, rows, benchmark), folder, subject)


def new_plan(subject: Subject, options: Options, rows: Sequence[str] | None = None, benchmark: Benchmark | None = None) -> Plan:
    from metabridge.eval import benchmarks, plan

    benchmark = benchmark or benchmarks.load(options.suite or "flatland")
    height, width = options.sides or (None, None)
    asked = {"num_inference_steps": options.steps, "guidance_scale": options.guidance, "height": height, "width": width}
    word = options.suite or benchmark.name
    scoring = {
        # later stages may be started elsewhere
        "benchmark": absolute(Path(word)) if word.endswith(".yaml") else benchmark.name,
        "data": absolute(options.data) if options.data else None,
        "judge": options.judge,
        "models": options.models,
        "compat": options.compat or "none",
    }
    return plan.make(
        benchmark,
        subject.identity,
        subject.generation(asked),
        code(),
        limit=options.limits,
        images=options.images,
        rows=_rows(subject, benchmark, options, rows),
        seeds=options.seeds or "image",
        data=data_of(benchmark, options),
        scoring=scoring,
    )


def save_plan(made: Plan, folder: Path, subject: Subject) -> Plan:
    from metabridge.eval import plan

    return plan.save(made, folder, lambda: has_grown(subject, folder))


def has_grown(subject: Subject, folder: Path) -> bool:
    """Whether it is a folder of pictures, of another fingerprint only because pictures came that were missing."""
    from metabridge.eval.generate import drawn
    from metabridge.eval.subjects.pictures import PicturesSubject

    return isinstance(subject, PicturesSubject) and subject.holds(drawn(folder))


def absolute(path: Path) -> str:
    return str(path.expanduser().absolute())


def _rows(subject: Subject, benchmark: Benchmark, options: Options, rows: Sequence[str] | None) -> list[str]:
    from metabridge.eval.benchmarks import ROWS

    usual = [row for row in ROWS if any(row in part.rows for part in benchmark.parts.values())]
    typed = options.rows is not None
    chosen = [word.strip() for word in options.rows.split(",")] if options.rows is not None else list(usual if rows is None else rows)
    if subject.identity["kind"] != "bridge":
        if (typed or rows is not None) and chosen != ["bridge"]:
            raise UserError(
                f"--rows {','.join(chosen)}: only a bridge draws in several ways; {'leave it out' if typed else 'give --rows bridge'}"
            )
        return ["bridge"]
    if "query-only" in chosen and not subject.drawer.bridge.hand.references:  # type: ignore[attr-defined]
        if typed:
            raise UserError("--rows query-only: the hand is given no source pictures in any case; leave query-only out")
        say("the hand is given no source pictures: no row without them")
        chosen.remove("query-only")
    native = options.baseline
    if native and "native" in chosen and subject.drawer.bridge.hand.describe([""]) is None:  # type: ignore[attr-defined]
        if typed:
            raise UserError("--rows native: the hand has no text encoder of its own; leave native out")
        say("the hand has no text encoder of its own: no baseline")
        native = False
    if not (drawn := [row for row in chosen if native or row != "native"]):
        raise UserError(
            f"--rows {','.join(chosen)}: nothing is left to draw without the hand's own text encoder; leave out --no-baseline, "
            "or give --rows bridge"
        )
    return drawn


def data_of(benchmark: Benchmark, options: Options) -> Path | None:
    """The folder of a benchmark's files, verified; what is missing is fetched."""
    if benchmark.data is None:
        return None
    from metabridge.eval import data

    return data.ready(benchmark.data, options.data, options.accept_licence)


def services_of(planned: Plan, options: Options, subject: Subject | None, folder: Path) -> Services:
    """What the scorer may use: as the plan says, or as asked for now."""
    from metabridge.eval import judges
    from metabridge.eval.items import Services

    benchmark, said = planned.definition, planned.scoring
    judge, word = None, judge_of(benchmark, replace(options, judge=options.judge or said.get("judge")))
    if word:
        answer, identity = judge_brain(subject) if word == "brain" else (None, None)
        judge = judges.load(
            word,
            folder=folder,
            concurrency=options.judge_concurrency or 8,
            timeout=options.judge_timeout or 120.0,
            max_calls=options.max_judge_calls,
            answer=answer,
            identity=identity,
            device=options.device,
        )
    models = {**benchmark.models, **said.get("models", {}), **models_of(benchmark, options)}
    compat = options.compat or said.get("compat", "none")
    return Services(data_of(benchmark, with_data(options, said)), judge, models, compat, device_of(options))


def with_data(options: Options, said: Mapping[str, Any]) -> Options:
    """The folder that is given now, else the plan's: its files are what was pinned wherever they lie."""
    return replace(options, data=Path(said["data"])) if said.get("data") and not options.data else options


def judge_brain(subject: Subject | None) -> tuple[Any, Mapping[str, Any]]:
    """The bridge's own brain as the judge."""
    if subject is None or subject.identity["kind"] != "bridge":
        raise UserError("--judge brain: there is no bridge here whose brain could judge; give URL#MODEL, local:REPO or replay:FILE")
    pipeline: BridgePipeline = subject.drawer  # type: ignore[attr-defined]
    brain = pipeline.bridge.brain.identity

    def answer(question: str, images: Sequence[Any], max_new_tokens: int) -> str:
        return pipeline.answer(question, list(images) or None, max_new_tokens)

    return answer, {"id": brain["repo"], "revision": brain.get("revision"), "fingerprint": brain["fingerprint"]}


def scorer_of(planned: Plan, services: Services) -> Scorer:
    benchmark = planned.definition
    found: Scorer = benchmark.scorer_module().load(benchmark.scorer_options, services)
    return found


def draw(planned: Plan, folder: Path, subject: Subject, options: Options | None = None, label: str = "drawing") -> None:
    from metabridge.eval.generate import generate

    options = options or Options()
    where = with_data(options, planned.scoring)
    data = data_of(planned.definition, where) if any(item.images for item in planned.items) else None
    total = sum(map(len, planned.chunks()[options.part[0] :: options.part[1]]))
    with bar(label, total) as hear:
        generate(planned, folder, subject, hear, data=data, shard=options.part)


def score(planned: Plan, folder: Path, options: Options | None = None, subject: Subject | None = None) -> Evaluation:
    """Score what is not scored yet, and write result.json."""
    from metabridge.eval.score import score as score_all

    options = options or Options()
    services = services_of(planned, options, subject, folder)
    scorer = scorer_of(planned, services)
    total = sum(map(len, planned.chunks()[options.part[0] :: options.part[1]]))
    try:
        if planned.definition.judge is not None or planned.definition.models:
            with bar("scoring", total) as hear:
                score_all(planned, folder, scorer, hear, options.part)
        else:
            score_all(planned, folder, scorer, shard=options.part)
        return summarize(planned, folder, scorer, services)
    finally:
        if services.judge is not None and hasattr(services.judge, "close"):
            services.judge.close()  # wakes who waits for another try: Ctrl-C must not


def summarize(planned: Plan, folder: Path, scorer: Scorer, services: Services) -> Evaluation:
    """result.json of what is scored, with what is to be known of the judge."""
    from metabridge.eval import result
    from metabridge.eval.judged import judged
    from metabridge.eval.score import identity_of, read, tag

    identity = identity_of(planned, scorer)
    scored = read(planned, folder, tag(identity))
    summary = result.summarize(planned, scored, identity, services, judged(scored, services.judge))
    result.write(summary, folder)
    return Evaluation(planned, folder, scored, summary)


def show(done: Evaluation, options: Options) -> None:
    """Tables on the console; the same, figures and contact sheets in report.html, and report.md."""
    from metabridge.eval import report, store, tables

    benchmark = done.plan.definition
    name = "bridge" if done.result["identity"]["model"]["kind"] == "bridge" else "model"
    for table in tables.result_tables(benchmark, {name: done.result}, options.allow_incomplete):
        console.print(rich_table(table), "")
    for line in tables.warnings(done.result):
        console.print(f"[yellow]{line}")
    where = with_data(options, done.plan.scoring)
    data = data_of(benchmark, where) if any(item.images for item in done.plan.items) else None
    made = report.page(benchmark, done.scored, done.result, done.folder, data, options.allow_incomplete)
    page = report.write(made, done.folder / "report.html")
    store.write(done.folder / "report.md", report.markdown(made).encode())
    say(f"95% intervals over prompts. Result: {done.folder / 'result.json'}, report: {page}")


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
