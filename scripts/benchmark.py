"""A benchmark in the middle of a training: what `metabridge train` hands to the loop, which knows nothing of evaluations."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import make_plan, of_pipeline, score

if TYPE_CHECKING:
    from metabridge.bridge.model import Bridge
    from metabridge.bridge.pipeline import BridgePipeline
    from metabridge.training.stop import Stop
    from metabridge.training.train import Callback
    from metabridge.training.watch import Benchmark


def train(
    recipe: Recipe, bridge: Bridge, out: Path, callbacks: Sequence[Callback] = (), stop: Stop | None = None, accept_changes: bool = False
) -> int:
    """The training loop with what `log.benchmark` asks for: pictures and scores in OUT/benchmarks/step-000500."""
    from metabridge.training.train import train as loop

    return loop(recipe, bridge, out, callbacks, stop, accept_changes, benchmark(recipe, out))


def refuse(recipe: Recipe) -> None:
    """A benchmark that cannot be, before anything is loaded."""
    from metabridge.eval import benchmarks

    log = recipe.log
    if log.benchmark == "none":
        return
    if log.benchmark not in benchmarks.names():
        raise UserError(f"log.benchmark: {unknown(log.benchmark, ['none', *benchmarks.names()], 'benchmark')}")
    asked = benchmarks.load(log.benchmark)
    if asked.judge is not None or asked.models or asked.data is not None:
        free = [name for name in benchmarks.names() if not (one := benchmarks.load(name)).judge and not one.models and not one.data]
        raise UserError(
            f"log.benchmark: {log.benchmark} needs data, a judge or a detector, for which a training does not wait; it may be one of: "
            f"{', '.join(['none', *free])}; run `metabridge eval` beside the training for the others"
        )
    if log.benchmark_limit > (most := max(Counter(item.group for item in asked.items(None) if not item.held_out).values())):
        raise UserError(
            f"log.benchmark_limit: {log.benchmark_limit} given; {log.benchmark} has {most} prompts a tag or kind, give as many at most"
        )


def benchmark(recipe: Recipe, out: Path) -> Benchmark | None:
    from metabridge.eval import benchmarks
    from metabridge.eval.generate import generate
    from metabridge.eval.subjects.bridge import BridgeSubject

    log = recipe.log
    if log.benchmark == "none":
        return None
    options = Options(log.benchmark, (str(log.benchmark_limit),), images=1, baseline=False)
    usual = {row for part in benchmarks.load(log.benchmark).parts.values() for row in part.rows}
    rows = ("bridge", "think") if recipe.thinks and "think" in usual else ("bridge",)

    def run(step: int, pipeline: BridgePipeline, check: Callable[..., None]) -> Mapping[str, float]:
        folder = out / "benchmarks" / f"step-{step:06d}"
        try:
            planned = make_plan(of_pipeline(pipeline), folder, options, rows)
        except UserError:  # a run that was killed comes by again, not always with the same bits
            shutil.rmtree(folder, ignore_errors=True)
            planned = make_plan(of_pipeline(pipeline), folder, options, rows)
        generate(planned, folder, BridgeSubject(pipeline, {}, check))
        return dict(overall(score(planned, folder).result["scores"], "score"))

    return run


def overall(scores: Mapping[str, Any], name: str) -> Iterator[tuple[str, float]]:
    """{"reasoning": {"think": {"overall": ...}}} -> score_reasoning_think; nothing for what could not be scored."""
    for key, below in scores.items():
        if "overall" not in below:
            yield from overall(below, f"{name}_{key}")
        elif below["overall"]["value"] is not None:
            yield f"{name}_{key}", below["overall"]["value"]
