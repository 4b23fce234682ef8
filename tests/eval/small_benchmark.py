"""A benchmark of four prompts in two groups, to try subjects on; also the reader that its tree names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.eval import benchmarks, plan
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.items import Item
from metabridge.eval.subjects import Subject

PROMPTS = {("animals", "cat"): "a red cat", ("animals", "dog"): "a blue dog", ("plants", "oak"): "an old oak", ("plants", "elm"): "an elm"}


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    """`options`: edit: a picture comes with each prompt; same: one id in both groups."""
    images = ("source.png",) if options.get("edit") else ()
    prompts = {("animals", "same"): "a red cat", ("plants", "same"): "an old oak"} if options.get("same") else PROMPTS
    return [Item(number, ident, group, text, {}, images) for number, ((group, ident), text) in enumerate(prompts.items())]


def small(**changes: Any) -> Benchmark:
    return benchmarks.parse("small", tree(**changes), "small")


def tree(images: int = 2, task: str = "t2i", **options: Any) -> dict[str, Any]:
    return {
        "title": "small",
        "task": task,
        "prompts": {"reader": __name__, "count": len(PROMPTS), **options},
        "groups": {"animals": "animals", "plants": "plants"},
        "images": images,
        "scoring": {"scorer": "flatland"},
        "metrics": [{"name": "correct"}],
    }


NOTHING: dict[str, Any] = {"num_inference_steps": None, "guidance_scale": None, "height": None, "width": None}


def planned(benchmark: Benchmark, subject: Subject, file: Path | None = None, **asked: Any) -> plan.Plan:
    """`file`: where the benchmark's tree lies, for what reads the plan again."""
    code, scoring = {"version": "0", "commit": "none"}, {"benchmark": str(file)} if file else {}
    return plan.make(benchmark, subject.identity, subject.generation({**NOTHING, **asked}), code, rows=["bridge"], scoring=scoring)
