"""What of a benchmark's file decides its numbers, as hashes: two files that differ in it give two scores, whatever their name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from metabridge.eval import benchmarks
from metabridge.eval.benchmarks import Benchmark


def digest(benchmark: Benchmark) -> str:
    """Of how the file uses its scorer: another option, metric or weight is another score."""
    return _hash(_scoring(benchmark))[:16]


def own_file(benchmark: Benchmark) -> str:
    """ "own file 1a2b3c4d" where the name is a shipped benchmark's and the file is not; what it says of scores is then its own alone."""
    if benchmark.name not in benchmarks.names():
        return ""
    own = _hash(_decisive(benchmark))
    return "" if own == _hash(_decisive(benchmarks.load(benchmark.name))) else f"own file {own[:8]}"


def _scoring(benchmark: Benchmark) -> dict[str, Any]:
    """Not where a template lies: scorers name and hash its text."""
    parts = {name: part.groups for name, part in benchmark.parts.items()}
    options = {key: value for key, value in benchmark.scorer_options.items() if key != "template"}
    return {"options": options, "metrics": [asdict(metric) for metric in benchmark.metrics], "parts": parts}


def _decisive(benchmark: Benchmark) -> dict[str, Any]:
    """Beside the scoring, what is drawn and from which data."""
    names = ("task", "version", "count", "images", "reader", "reader_options", "prompt_set", "official_seed", "scorer", "models")
    drawn = {name: getattr(benchmark, name) for name in names}
    files = [file.sha256 for file in benchmark.data.files] if benchmark.data else []
    return {**_scoring(benchmark), **drawn, "files": files}


def _hash(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()
