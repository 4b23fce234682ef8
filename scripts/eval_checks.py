"""What `metabridge eval` refuses before any work: judges that nobody asks, devices that are not there, options without effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError
from metabridge.scripts.eval_options import Options

if TYPE_CHECKING:
    from metabridge.eval.benchmarks import Benchmark


def judge_of(benchmark: Benchmark, options: Options) -> str | None:
    """The word of the judge; refused where it is missing or nobody asks it."""
    if benchmark.judge is None and options.judge:
        raise UserError(f"--judge {options.judge}: has no effect on {benchmark.name}, which asks no judge; leave it out")
    if benchmark.judge is not None and benchmark.judge.needed and not options.judge:
        raise UserError(f"--judge: {benchmark.name} is scored by a judge; {judge_advice(benchmark)}")
    if options.judge:
        from metabridge.eval.judges import words

        words.parse(options.judge)  # before it stands in a plan: an address may hold a secret
    return options.judge


def judge_advice(benchmark: Benchmark) -> str:
    assert benchmark.judge is not None
    known = [f"{kind}: {name}" for kind in ("official", "recommended") if (name := getattr(benchmark.judge, kind))]
    beside = f" ({'; '.join(known)})" if known else ""
    return f"give --judge URL#MODEL{beside}, local:REPO, brain, or replay:FILE"


def models_of(benchmark: Benchmark, options: Options) -> Mapping[str, str]:
    """Models from elsewhere, of roles that the benchmark has."""
    if wrong := next((role for role in options.models if role not in benchmark.models), None):
        raise UserError(f"--model {wrong}: {benchmark.name} has no such model; it has: {', '.join(benchmark.models) or '(none)'}")
    return options.models


def device_of(options: Options) -> str:
    import torch

    if options.device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=options.device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {options.device}: no such device here; give cpu{_cuda()}") from error
    return options.device


def _cuda() -> str:
    import torch

    return "".join(f", cuda:{i}" for i in range(torch.cuda.device_count()))


def heeds_compat(benchmark: Benchmark) -> bool:
    return bool(getattr(benchmark.scorer_module(), "COMPAT", False))


def refuse_idle(benchmarks: Sequence[Benchmark], options: Options, kind: str = "", judge: str = "", scored: bool = True) -> None:
    """Options that none of these benchmarks has a use for. `kind`: of who draws; `judge`: its word; `scored`: whether that is asked for."""
    data = any(one.data is not None for one in benchmarks)
    judged = any(one.judge is not None for one in benchmarks)
    by_models = any(one.models or "." in one.scorer for one in benchmarks)
    device = kind == "diffusers" or (scored and (judge.startswith("local:") or by_models))
    used = {
        "data": (data, "no data is needed"),
        "accept_licence": (data, "no data is needed"),
        "judge_concurrency": (judged, "no judge is asked"),
        "judge_timeout": (judged, "no judge is asked"),
        "max_judge_calls": (judged, "no judge is asked"),
        "compat": (options.compat != "official" or any(map(heeds_compat, benchmarks)), "no defect of an official scorer is known"),
        "device": (device, "it places no model"),
    }
    for name, (has_use, why) in used.items():
        if not has_use and (given := options.words(name)):
            raise UserError(f"{' '.join(given)}: has no effect on {', '.join(one.name for one in benchmarks)}, where {why}; leave it out")
