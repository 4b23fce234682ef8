"""The list of benchmarks in docs/evaluation.md, from their own files.

python -m metabridge.scripts.eval_docs docs
"""

from __future__ import annotations

import sys
from pathlib import Path

from metabridge.eval import benchmarks
from metabridge.eval.benchmarks import BADGES, Benchmark, JudgeNeed
from metabridge.eval.data import DataSpec
from metabridge.eval.tables import capital
from metabridge.scripts.figure import fill


def lines() -> list[str]:
    """A section a benchmark."""
    found = []
    for name in benchmarks.names():
        found += ["", *section(benchmarks.load(name))]
    return [*found, ""]


def section(one: Benchmark) -> list[str]:
    pictures = one.count * one.images
    numbers = ", ".join(
        f"{metric.title or metric.name} ({metric.note.rstrip('.')})" if metric.note else metric.title for metric in one.metrics
    )
    rows = [
        f"### `{one.name}`",
        "",
        f"{one.title}.",
        "",
        f"- **Cost**: {one.count:,} prompts x {one.images} = {pictures:,} pictures{cost(one.judge)}.",
        f"- **Data**: {data(one.data)}",
        f"- **Scored by**: {judge(one)}",
        f"- **Numbers**: {numbers}.",
        f"- **Badge**: {one.badge}, {BADGES[one.badge]}. {capital(one.badge_note)}".rstrip(". ") + ".",
    ]
    return rows + [f"- {note}" for note in one.notes]


def cost(judge: JudgeNeed | None) -> str:
    return f", {judge.calls:,} judge calls" if judge is not None and judge.calls else ""


def data(spec: DataSpec | None) -> str:
    if spec is None:
        return "none needed."
    words = [f"[{spec.url.removeprefix('https://')}]({spec.url}), licence: {spec.licence}"]
    if spec.accept:
        words.append(f"taken only with `--accept-licence {spec.folder}`")
    if spec.files:
        words.append(
            f"{len(spec.files)} pinned file{'s' if len(spec.files) > 1 else ''} in `{spec.folder}/`, fetched and checked by sha256"
        )
    if spec.by_hand:
        words.append(f"by hand: {spec.by_hand}")
    return "; ".join(words).rstrip(".") + "."


def judge(one: Benchmark) -> str:
    if one.judge is None:
        models = ", ".join(f"{role} `{repo}`" for role, repo in one.models.items())
        return (models or "a checker without weights") + "."
    words = [f"{kind} judge `{name}`" for kind in ("official", "recommended") if (name := getattr(one.judge, kind))]
    words += [f"{role} `{repo}`" for role, repo in one.models.items()]
    return "; ".join([*words, *([one.judge.note.rstrip(".")] if one.judge.note else [])]) + "."


def main() -> None:
    fill(Path(sys.argv[1]) / "evaluation.md", "<!-- benchmarks -->", lines())


if __name__ == "__main__":
    main()
