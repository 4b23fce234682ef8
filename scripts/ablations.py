"""Ablations on Flatland: one setting changed at a time, everything else and all seeds and prompts the same.

    python -m metabridge.scripts.ablations --out ../flatland/ablations                    # every run; go on by the same command
    python -m metabridge.scripts.ablations --out ../flatland/ablations --only queries-4   # this one
    python -m metabridge.scripts.ablations --out ../flatland/ablations --report docs      # the table and the plot of docs/ablations.md

A run trains for at most 5 minutes on two CPU cores, then draws and scores; those that are done are not done again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from metabridge.bridge.artifact import apply, read_artifact
from metabridge.bridge.errors import unknown
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.eval import result
from metabridge.eval.subjects.bridge import BridgeSubject, Drawn
from metabridge.scripts.console import say
from metabridge.scripts.eval_options import Options
from metabridge.scripts.eval_run import draw, make_plan, of_pipeline, score
from metabridge.scripts.figure import fill, shown
from metabridge.scripts.quiet import quiet
from metabridge.training import recipes

BASE, STEPS = "flatland-demo", "train.steps=400"
LIMITS = ("24",)  # prompts of a tag or kind, a picture each


@dataclass(frozen=True)
class Run:
    """One row of the table."""

    group: str
    label: str
    overrides: tuple[str, ...] = ()
    like: str | None = None  # draws with the bridge of this run, in another way
    thinks: bool = True


QUERIES, OBJECTIVE, NO_THINK = "Queries", "Objective", "objective.think=0"
REWORDED = "data=[{source: flatland, reworded: 0.5}]"
STATES = ("brain.name=metabridge.scripts.prompt_states", "connector.queries=24", NO_THINK)
RUNS = {
    "base": Run("Base", "flatland-demo, 400 steps"),
    "queries-4": Run(QUERIES, "4 queries", ("connector.queries=4",)),
    "queries-64": Run(QUERIES, "64 queries", ("connector.queries=64",)),
    "states-last": Run(QUERIES, "no queries: last-layer states of the prompt", (*STATES, "connector.taps=[-1]"), thinks=False),
    "states-taps": Run(QUERIES, "no queries: states of the prompt, same taps", STATES, thinks=False),
    "queries-no-think": Run(QUERIES, "queries, no think rows", (NO_THINK,), thinks=False),
    "layers-1": Run("Connector", "1 layer", ("connector.layers=1",)),
    "layers-2": Run("Connector", "2 layers", ("connector.layers=2",)),
    "layers-6": Run("Connector", "6 layers", ("connector.layers=6",)),
    "taps-last": Run("Taps", "last layer only", ("connector.taps=[-1]",)),
    "taps-middle": Run("Taps", "layer 3 only", ("connector.taps=[3]",)),
    "lora": Run("Hand", "LoRA of the hand, rank 8", ("hand.train=lora",)),
    "flow": Run(OBJECTIVE, "flow loss", ("objective.distill=0",)),
    "mix": Run(OBJECTIVE, "half flow, half distillation", ("objective.distill=0.5",)),
    "distill-half": Run(OBJECTIVE, "distillation, half the steps", ("train.steps=200",)),
    "flow-half": Run(OBJECTIVE, "flow loss, half the steps", ("train.steps=200", "objective.distill=0")),
    "reworded": Run("Data", "half of the captions in the forms of reasoning prompts, no facts", (REWORDED,)),
    "untrained": Run("Brain", "untrained brain", ("brain.weights=random",)),
    "untrained-reworded": Run("Brain", "untrained brain, the captions as under Data", ("brain.weights=random", REWORDED)),
    "rewrite": Run("Thought", "thought instead of the prompt", like="base"),
}  # fmt: skip
COLUMNS = {
    "single": ("composition", "single"),
    "two objects": ("composition", "two_object"),
    "counting": ("composition", "counting"),
    "color attribution": ("composition", "color_attr"),
    "composition": ("composition", "overall"),
    "implicit": ("implicit", "overall"),
    "think": ("think", "overall"),
}


class Rewriting:
    """A pipeline whose thought takes the prompt's place."""

    def __init__(self, pipeline: BridgePipeline) -> None:
        self.pipeline = pipeline

    def __call__(self, prompt: list[str], *, think: bool, **settings: Any) -> Drawn:
        return self.pipeline(prompt, think=think, think_mode="rewrite", **settings)


def do(name: str, out: Path, seed: int) -> None:
    """Train, draw and score one run; what is there already stays."""
    from metabridge.adapters import assemble
    from metabridge.training.train import train

    run, folder = RUNS[name], out / f"{name}-{seed}"
    if (folder / "eval" / "result.json").exists():
        return
    source = RUNS[run.like] if run.like else run
    recipe = Recipe.load(recipes.find(BASE), (STEPS, *source.overrides, f"train.seed={seed}", "log.sample_every=0"))
    trained = out / f"{run.like or name}-{seed}" / "run"
    bridge = assemble(recipe)
    if train(recipe, bridge, trained) < recipe.train.steps:
        raise SystemExit(130)
    apply(read_artifact(trained / "bridge"), bridge)
    pipeline = BridgePipeline(bridge, str(trained))
    rows = ("bridge", "think") if run.thinks else ("bridge",)
    subject = of_pipeline(pipeline)
    planned = make_plan(subject, folder / "eval", Options("flatland", LIMITS, images=1), rows)
    if run.like:
        subject = BridgeSubject(Rewriting(pipeline), subject.identity)  # type: ignore[arg-type]
    draw(planned, folder / "eval", subject, label=name)
    score(planned, folder / "eval")


def cells(out: Path, name: str, seeds: Sequence[int]) -> dict[str, Mapping[str, Any]]:
    """Of each column the value with its interval, averaged over the seeds; {} where the run is not there yet."""
    found = []
    for seed in seeds:
        path = out / f"{name}-{seed}" / "eval" / "result.json"
        if not path.exists():
            return {}
        scores = result.read(path)["scores"]
        found.append({"composition": scores["composition"], **scores["reasoning"]})
    return {
        column: {key: sum(one[part][kind][key] for one in found) / len(found) for key in ("value", "low", "high")}
        for column, (part, kind) in COLUMNS.items()
        if found[0][part]
    }


def table(out: Path, seeds: Sequence[int]) -> list[str]:
    """Lines of Markdown: a row a run, under the name of what it changes."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    group = ""
    for name, run in RUNS.items():
        row = cells(out, name, seeds)
        if not row:
            continue
        if run.group != group:
            group = run.group
            lines.append(f"| **{group}** |" + " |" * len(COLUMNS))
        lines.append(f"| {run.label} | " + " | ".join(shown(row.get(column)) for column in COLUMNS) + " |")
    return lines


def plot(out: Path, seeds: Sequence[int], path: Path) -> None:
    """Composition, implicit and think of every run with their intervals; a line through the base."""
    done = {name: row for name in RUNS if (row := cells(out, name, seeds))}
    figure, grid = plt.subplots(1, 3, figsize=(11, 0.34 * len(done) + 1.2), sharey=True)
    for axes, column in zip(grid, ("composition", "implicit", "think"), strict=True):
        for place, row in enumerate(done.values()):
            if cell := row.get(column):
                axes.plot([cell["low"], cell["high"]], [place, place], color="#93b4e8", linewidth=4, solid_capstyle="round")
                axes.plot(cell["value"], place, "o", color="#1d4ed8", markersize=5)
        axes.set_xticks((0, 0.5, 1))
        axes.axvline(done["base"][column]["value"], color="#9ca3af", linewidth=1, linestyle=":")
        axes.set(title=column, xlim=(0, 1), yticks=range(len(done)), yticklabels=[RUNS[name].label for name in done])
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
    grid[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110, facecolor="white")


def report(out: Path, seeds: Sequence[int], docs: Path) -> None:
    page = docs / "ablations.md"
    fill(page, "<!-- runs -->", table(out, seeds))
    plot(out, seeds, docs / "ablations.png")
    say(f"wrote {page} and {docs / 'ablations.png'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folders; outside the repository")
    parser.add_argument("--only", help=f"runs, separated by commas: {', '.join(RUNS)}")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0..N-1 of each run")
    parser.add_argument("--report", type=Path, help="write the table into this folder's ablations.md, and ablations.png; train nothing")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(RUNS)
    if wrong := [name for name in chosen if name not in RUNS]:
        parser.error(unknown(wrong[0], RUNS, "run"))
    if args.report:
        return report(args.out, range(args.seeds), args.report)
    quiet()
    for seed in range(args.seeds):
        for name in chosen:
            say(f"{name}, seed {seed}")
            do(name, args.out, seed)


if __name__ == "__main__":
    main()
