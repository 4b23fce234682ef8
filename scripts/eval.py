"""`metabridge eval`: plan -> generate -> score -> report, in one or a stage at a time, and what compares and converts results."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError
from metabridge.scripts.console import say
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import (
    SCORING,
    Evaluation,
    data_of,
    draw,
    judge_of,
    make_plan,
    models_of,
    say_plan,
    score,
    show,
    subject_of,
)

if TYPE_CHECKING:
    from metabridge.eval.benchmarks import Benchmark
    from metabridge.eval.plan import Plan
    from metabridge.eval.subjects import Subject
    from metabridge.eval.suites import Entry, Suite

SUITE = "flatland"  # unless --suite says otherwise
PLANNED = "the folder's plan.json says what is drawn"
STAGES = ("plan", "generate", "score", "report", "compare", "list", "verify-data", "export", "import", "parity")


def eval_command(words: Sequence[str], options: Options, out: Path | None) -> None:
    stage, rest = (words[0], list(words[1:])) if words[0] in STAGES else ("", list(words))
    options.limits, options.models, options.sides, options.part  # noqa: B018  # what cannot be read is refused before anything is loaded
    if stage in ("", "plan"):
        (model,) = exactly(rest, 1, f"metabridge eval {stage and stage + ' '}BRIDGE -o DIR")
        return evaluate(model, options, out, only_plan=stage == "plan")
    from metabridge.scripts import eval_verbs

    run: Callable[[Sequence[str], Options, Path | None], None] = {
        "generate": generate_stage,
        "score": score_stage,
        "report": eval_verbs.report,
        "compare": eval_verbs.compare,
        "list": eval_verbs.list_benchmarks,
        "verify-data": eval_verbs.verify_data,
        "export": eval_verbs.export,
        "import": eval_verbs.import_results,
        "parity": eval_verbs.parity,
    }[stage]
    run(rest, options, out)


def exactly(words: Sequence[str], count: int, usage: str) -> Sequence[str]:
    if len(words) != count:
        raise UserError(f"{shlex.join(words) or 'nothing'} given; write {usage}")
    return words


def evaluate(model: str, options: Options, out: Path | None, only_plan: bool) -> None:
    """Every benchmark of the suite in a folder of its own, or the only one in `out` itself."""
    from metabridge.eval import suites

    suite = suites.find(options.suite or SUITE)
    base = out or Path("evals") / Path(model.rpartition("#")[2].rpartition(":")[2]).name
    if (options.processes or 1) > 1 and (options.shard or options.max_image_calls is not None):
        raise UserError("--processes: takes neither --shard nor --max-image-calls beside it; start the shards yourself")
    asked = [own_options(options, entry, suite) for entry in suite.entries]
    missing([entry.benchmark for entry in suite.entries], asked, only_plan)
    subject, done = None, []
    for entry, own in zip(suite.entries, asked, strict=True):
        folder = base if len(suite.entries) == 1 else base / entry.benchmark.name
        if subject is None or model.startswith("images:"):
            subject = subject_of(model, entry.benchmark, own)
        planned = make_plan(subject, folder, own, benchmark=entry.benchmark)
        say_plan(planned, folder)
        if only_plan:
            say_time(planned, subject, own)
            continue
        if options.processes and options.processes > 1:
            in_processes(options.processes, folder, own)
        else:
            draw(planned, folder, subject, own)
        one = score(planned, folder, own, subject)
        show(one, own)
        done.append(one)
    if len(done) > 1:
        from metabridge.scripts.eval_verbs import overview

        overview(base, done, suite)


def own_options(options: Options, entry: Entry, suite: Suite) -> Options:
    """Of several benchmarks, the judge and the models are for those that have such; where none has, it is said."""
    others = [one.benchmark for one in suite.entries]
    judge = options.judge if entry.benchmark.judge or not any(one.judge for one in others) else None
    known = {role for one in others for role in one.models}
    models = [word for word in options.model if (role := word.partition("=")[0]) in entry.benchmark.models or role not in known]
    return replace(options, suite=entry.word, rows=options.rows or entry.rows, judge=judge, model=tuple(models))


def missing(wanted: Sequence[Benchmark], asked: Sequence[Options], only_plan: bool) -> None:
    """What stands in the way, before any work: data, licence, judge. A plan names everything at once."""
    found = []
    for benchmark, options in zip(wanted, asked, strict=True):
        for check in (data_of, judge_of, models_of):
            try:
                check(benchmark, options)
            except UserError as error:
                if not only_plan:
                    raise
                found.append(str(error))
    if found:
        raise UserError(f"{', '.join(one.name for one in wanted)} cannot be run yet: {'; '.join(found)}")


def say_time(planned: Plan, subject: Subject, options: Options) -> None:
    """One picture of each way to draw is drawn, and not kept, to say how long all of them will take."""
    if subject.identity["kind"] not in ("bridge", "diffusers"):
        return  # pictures that lie there take no time, and those of an endpoint may cost money
    from metabridge.eval.generate import SETTINGS

    seconds = 0.0
    settings = {key: value for key, value in planned.identity["generation"].items() if key in SETTINGS}
    for row in planned.rows:
        samples = [sample for sample in planned.samples() if sample.row == row]
        if samples and not any(sample.item.images for sample in samples[:1]):
            start = time.monotonic()
            subject.draw(row, samples[:1], [[]], settings)
            seconds += (time.monotonic() - start) * len(samples)
    if seconds:
        say(f"at most about {seconds / 60:.0f} minutes of drawing, going by one picture of each way; several at once go faster")


def in_processes(number: int, folder: Path, options: Options) -> None:
    """Draw in several processes, each with every so-manyth chunk; a GPU each, where there are as many."""
    import torch

    words = [sys.executable, "-m", "metabridge.scripts.cli", "eval", "generate", str(folder), *options.words("data", "device")]
    children = []
    for index in range(number):
        environment = dict(os.environ)
        if (gpus := torch.cuda.device_count()) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(index % gpus)
        children.append(subprocess.Popen([*words, "--shard", f"{index + 1}/{number}"], env=environment))
    try:
        codes = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
        raise
    if any(codes):
        raise UserError(
            f"{sum(map(bool, codes))} of {number} drawing processes failed, see above; when that is mended, run the same command again: "
            "what is done stays done"
        )


def generate_stage(words: Sequence[str], options: Options, out: Path | None) -> None:
    options.refuse_all_but(("shard", "data", "device", "max_image_calls"), "generate", PLANNED)
    folder = stage_folder("generate", words, out)
    planned = load_plan(folder)
    subject = planned_subject(planned, options)
    draw(planned, folder, subject, options)


def planned_subject(planned: Plan, options: Options) -> Subject:
    """Who the plan says draws; another one under the same name is refused."""
    model = planned.identity["model"]
    if model["kind"] == "official":
        raise UserError(f"{model['name']}: results of an official scorer, taken in; there is nothing to draw or to score anew")
    prefix = "" if model["kind"] == "bridge" else f"{model['kind']}:"
    quantize = model["brain"].get("quantize", "none") if model["kind"] == "bridge" else None
    said = planned.scoring.get("data")
    data = options.data or (Path(said) if said else None)
    subject = subject_of(f"{prefix}{model['name']}", planned.definition, replace(options, quantize=quantize, data=data), model.get("dtype"))
    if (found := subject.identity["fingerprint"]) != model["fingerprint"]:
        raise UserError(f"{model['name']}: fingerprint {found[:16]}, planned was {model['fingerprint'][:16]}; plan anew with -o")
    return subject


def score_stage(words: Sequence[str], options: Options, out: Path | None) -> None:
    options.refuse_all_but((*SCORING, "shard"), "score", PLANNED)
    folder = stage_folder("score", words, out)
    planned = load_plan(folder)
    by_brain = (options.judge or planned.scoring.get("judge")) == "brain"
    subject = planned_subject(planned, options) if by_brain or planned.identity["model"]["kind"] == "official" else None
    done = score(planned, folder, options, subject)
    counts = ", ".join(f"{state} {number}" for state, number in done.result["pictures"].items())
    say(f"{len(done.scored)} pictures ({counts}){told(done)}. Result: {folder / 'result.json'}")


def told(done: Evaluation) -> str:
    """ ": 12 right" where pictures are right or wrong."""
    metric = done.plan.definition.metrics[0]
    if metric.name != "correct":
        return ""
    return f": {sum(s.values.get(metric.source) == metric.high for s in done.scored)} right"


def stage_folder(stage: str, words: Sequence[str], out: Path | None) -> Path:
    if out is not None:
        raise UserError(f"-o: has no effect on {stage}; {PLANNED}")
    return Path(exactly(words, 1, f"metabridge eval {stage} DIR")[0])


def load_plan(folder: Path) -> Plan:
    from metabridge.eval import plan

    return plan.load(folder)
