"""`metabridge eval`: plan -> generate -> score -> report, in one or a stage at a time, and what compares and converts results."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError
from metabridge.scripts.console import say
from metabridge.scripts.eval_checks import device_of, heeds_compat, judge_of, models_of, refuse_idle
from metabridge.scripts.eval_forecast import say_plan, say_time
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import (
    Evaluation,
    absolute,
    data_of,
    draw,
    has_grown,
    new_plan,
    save_plan,
    score,
    show,
    subject_of,
    with_data,
)

if TYPE_CHECKING:
    from metabridge.eval.benchmarks import Benchmark
    from metabridge.eval.plan import Plan
    from metabridge.eval.subjects import Subject
    from metabridge.eval.suites import Entry, Suite

SUITE = "flatland"  # unless --suite says otherwise
PLANNED = "the folder's plan.json says what is drawn"
DATA = ("data", "accept_licence")
SCORING = (*DATA, "judge", "judge_concurrency", "judge_timeout", "max_judge_calls", "model", "compat", "device")
STAGES = ("plan", "generate", "score", "report", "compare", "list", "verify-data", "export", "import", "parity")


def eval_command(words: Sequence[str], options: Options, out: Path | None) -> None:
    stage, rest = (words[0], list(words[1:])) if words[0] in STAGES else ("", list(words))
    options.check()
    if stage in ("", "plan"):
        (model,) = exactly(rest, 1, f"metabridge eval {stage and stage + ' '}BRIDGE -o DIR")
        return evaluate(model, options, out, only_plan=stage == "plan")
    from metabridge.scripts import eval_verbs

    verb: Callable[[Sequence[str], Options, Path | None], None] = {
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
    verb(rest, options, out)


def exactly(words: Sequence[str], count: int, usage: str) -> Sequence[str]:
    if len(words) != count:
        raise UserError(f"{shlex.join(words) or 'nothing'} given; write {usage}")
    return words


def evaluate(model: str, options: Options, out: Path | None, only_plan: bool) -> None:
    """Every benchmark of the suite in a folder of its own, or the only one in `out` itself. All are planned before one is drawn."""
    from metabridge.eval import suites

    suite = suites.find(options.suite or SUITE)
    base = out or Path("evals") / Path(model.rpartition("#")[2].rpartition(":")[2]).name
    if (options.processes or 1) > 1 and (options.shard or options.max_image_calls is not None):
        raise UserError("--processes: takes neither --shard nor --max-image-calls beside it; start the shards yourself")
    refuse_idle([entry.benchmark for entry in suite.entries], options, model.partition(":")[0], options.judge or "")
    asked = [own_options(options, entry, suite) for entry in suite.entries]
    missing([entry.benchmark for entry in suite.entries], asked, only_plan)
    if options.device:
        device_of(options)
    subjects = subjects_of(model, suite, asked)
    made = [
        new_plan(subject, own, entry.rows.split(",") if entry.rows else None, entry.benchmark)
        for subject, entry, own in zip(subjects, suite.entries, asked, strict=True)
    ]
    folders = folders_of(suite, base)
    plans = [save_plan(*parts) for parts in zip(made, folders, subjects, strict=True)]
    if len(plans) > 1:
        write_suite(suite, options.suite or SUITE, base)
    for planned, folder, subject in zip(plans, folders, subjects, strict=True):
        say_plan(planned, folder)
        if only_plan:
            say_time(planned, subject)
    if only_plan:
        return
    done = [run(*parts) for parts in zip(plans, folders, subjects, asked, strict=True)]
    if len(done) > 1:
        from metabridge.scripts.eval_verbs import overview

        overview(base, [(done, suite.differences)])


def run(planned: Plan, folder: Path, subject: Subject, options: Options) -> Evaluation:
    """Draw, score and show one benchmark."""
    if options.processes and options.processes > 1:
        in_processes(options.processes, folder, options, subject)
    else:
        draw(planned, folder, subject, options)
    done = score(planned, folder, options, subject)
    show(done, options)
    return done


def own_options(options: Options, entry: Entry, suite: Suite) -> Options:
    """Of several benchmarks, data, judge, models and --compat are for those that have such; where none has, it is said."""
    others = [one.benchmark for one in suite.entries]
    judge = options.judge if entry.benchmark.judge or not any(one.judge for one in others) else None
    known = {role for one in others for role in one.models}
    models = [word for word in options.model if (role := word.partition("=")[0]) in entry.benchmark.models or role not in known]
    compat = options.compat if heeds_compat(entry.benchmark) else None
    data = options.data if entry.benchmark.data else None
    return replace(options, suite=entry.word, data=data, judge=judge, model=tuple(models), compat=compat)


def subjects_of(model: str, suite: Suite, asked: Sequence[Options]) -> list[Subject]:
    """Who draws each benchmark: a folder of pictures is looked through anew for each, anybody else is loaded once."""
    subjects: list[Subject] = []
    for entry, own in zip(suite.entries, asked, strict=True):
        if not subjects or model.startswith("images:"):
            subjects.append(subject_of(model, entry.benchmark, own))
            continue
        if model.startswith("diffusers:"):
            subjects[0].check(entry.benchmark)  # type: ignore[attr-defined]
        subjects.append(subjects[0])
    return subjects


def folders_of(suite: Suite, base: Path) -> list[Path]:
    """Where each benchmark goes: into `base` itself, or one of several below it."""
    from metabridge.eval import suite_folder

    names = [entry.benchmark.name for entry in suite.entries]
    if len(names) == 1:
        if (base / suite_folder.NAME).exists():
            raise UserError(f"{base} holds a suite of several benchmarks; give another folder with -o, as {base / names[0]}")
        return [base]
    if (base / "plan.json").exists():
        raise UserError(f"{base} holds the evaluation of one benchmark; give another folder with -o")
    return [base / name for name in names]


def write_suite(suite: Suite, words: str, base: Path) -> None:
    """suite.json: which benchmarks belong together, where each lies, and what is to be set against each other."""
    from metabridge.eval import store, suite_folder

    names = [entry.benchmark.name for entry in suite.entries]
    tree = {
        "schema": suite_folder.SCHEMA,
        "suite": ",".join(absolute(Path(word)) if word.endswith(".yaml") else word for word in map(str.strip, words.split(","))),
        "members": [{"benchmark": name, "folder": name} for name in names],
        "compare": [asdict(difference) for difference in suite.differences],
    }
    store.write_json(base / suite_folder.NAME, tree)


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


def in_processes(number: int, folder: Path, options: Options, subject: Subject) -> None:
    """Draw in several processes, each with every so-manyth chunk; a GPU each, where there are as many."""
    import torch

    heeded = ("data", "device") if subject.identity["kind"] == "diffusers" else ("data",)
    words = [sys.executable, "-m", "metabridge.scripts.cli", "eval", "generate", str(folder), *options.words(*heeded)]
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
    options.refuse_all_but((*DATA, "shard", "device", "max_image_calls"), "generate", PLANNED)
    folder = stage_folder("generate", words, out)
    planned = load_plan(folder)
    refuse_idle([planned.definition], options, planned.identity["model"]["kind"], scored=False)
    subject = planned_subject(planned, folder, options)
    if subject.identity["fingerprint"] != planned.identity["model"]["fingerprint"]:
        planned = save_plan(replace(planned, identity={**planned.identity, "model": dict(subject.identity)}), folder, subject)
    draw(planned, folder, subject, options)


def planned_subject(planned: Plan, folder: Path, options: Options) -> Subject:
    """Who the plan says draws; another one under the same name is refused."""
    model = planned.identity["model"]
    if model["kind"] == "official":
        raise UserError(f"{model['name']}: results of an official scorer, taken in; there is nothing to draw or to score anew")
    prefix = "" if model["kind"] == "bridge" else f"{model['kind']}:"
    quantize = model["brain"].get("quantize", "none") if model["kind"] == "bridge" else None
    own = replace(with_data(options, planned.scoring), quantize=quantize)
    subject = subject_of(f"{prefix}{model['name']}", planned.definition, own, model.get("dtype"))
    if (found := subject.identity["fingerprint"]) != model["fingerprint"] and not has_grown(subject, folder):
        raise UserError(f"{model['name']}: fingerprint {found[:16]}, planned was {model['fingerprint'][:16]}; plan anew with -o")
    return subject


def score_stage(words: Sequence[str], options: Options, out: Path | None) -> None:
    options.refuse_all_but((*SCORING, "shard"), "score", PLANNED)
    folder = stage_folder("score", words, out)
    planned = load_plan(folder)
    judge = options.judge or planned.scoring.get("judge") or ""
    refuse_idle([planned.definition], options, judge=judge)
    subject = None
    if judge == "brain" or planned.identity["model"]["kind"] == "official":
        subject = planned_subject(planned, folder, options)
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
