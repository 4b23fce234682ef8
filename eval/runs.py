"""Runs of one variant beside each other: how large each is, whether it is the whole benchmark, and in what they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.eval.benchmarks import Benchmark, Published

Result = Mapping[str, Any]
NOT_ASKED = ("rows", "chunk")  # of a plan's generation: what has columns of its own, and what changes no picture


def prompts(result: Result) -> int:
    return sum(result["identity"]["benchmark"]["prompts"].values())


def size(result: Result) -> str:
    return f"{prompts(result)} prompts x {result['identity']['benchmark']['images_per_prompt']}"


def is_whole(benchmark: Benchmark, result: Result) -> bool:
    """All of the benchmark's prompts, each as often as it says: what published numbers are of."""
    return (prompts(result), result["identity"]["benchmark"]["images_per_prompt"]) == (benchmark.count, benchmark.images)


def published(benchmark: Benchmark, result: Result) -> list[Published]:
    """Numbers from the literature that may stand beside this result: of its very variant, and of the whole benchmark."""
    return _of_variant(benchmark, result) if is_whole(benchmark, result) else []


def why_no_published(benchmark: Benchmark, result: Result) -> str:
    """A line, where there are published numbers and none may stand beside this result."""
    if not benchmark.published or published(benchmark, result):
        return ""
    if _of_variant(benchmark, result):
        whole = f"{benchmark.count} prompts x {benchmark.images}"
        return f"Published numbers are of the whole benchmark ({whole}); this run has {size(result)}, and they do not stand beside it."
    others = sorted({row.variant for row in benchmark.published})
    return f"Published numbers are of other variants ({', '.join(others)}); they do not stand beside {result['variant']}."


def _of_variant(benchmark: Benchmark, result: Result) -> list[Published]:
    return [row for row in benchmark.published if f"{benchmark.name}/{row.variant}" == result["variant"]]


def labels(runs: Sequence[tuple[Result, Path]]) -> list[str]:
    """The models' names, each with what sets its run apart from the others: size, prompts, seeds, file, else settings or its folder."""
    results = [result for result, _ in runs]
    names = [str(result["identity"]["model"]["name"]) for result in results]
    said = [", ".join([name, *words]) for name, words in zip(names, _apart(results), strict=True)]
    same = Counter(said)
    return [
        label
        if same[label] == 1
        else f"{label}, {_settings(result, [r for r, s in zip(results, said, strict=True) if s == label]) or place}"
        for label, (result, place) in zip(said, runs, strict=True)
    ]


def _apart(results: Sequence[Result]) -> list[list[str]]:
    """For each result, a word on everything that the results do not share and that makes their numbers of different things."""
    sizes = [size(result) for result in results]
    data = [result["identity"]["benchmark"]["data_sha256"][:8] for result in results]
    alike = [len({other for other, as_large in zip(data, sizes, strict=True) if as_large == own}) == 1 for own in sizes]
    found: list[list[str]] = [[] for _ in results]
    for words in (
        sizes,
        ["" if same else f"prompts {digest}" for digest, same in zip(data, alike, strict=True)],
        [f"{result['identity']['benchmark']['seeds']} seeds" for result in results],
        [f"file {str(result['identity']['scoring'].get('definition', 'unknown'))[:8]}" for result in results],
    ):
        for own, word in zip(found, words, strict=True):
            own += [word] if word and len(set(words)) > 1 else []
    return found


def _settings(result: Result, same: Sequence[Result]) -> str:
    """What of drawing differs among runs that are called the same: num_inference_steps=20."""
    drawn = [other["identity"]["generation"] for other in same]
    own = result["identity"]["generation"]
    return ", ".join(f"{key}={own[key]}" for key in own if key not in NOT_ASKED and any(other.get(key) != own[key] for other in drawn))
