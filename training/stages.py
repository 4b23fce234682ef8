"""The stages of a recipe, one run after another: each starts from the weights that the one before it saved.

OUT/stages/1-connector, OUT/stages/2-lora, ...: run folders like any other. OUT/recipe.yaml: the whole recipe. OUT/bridge: the bridge of the
last stage that is finished. OUT/metrics.jsonl: the stages' lines one after another, their steps and seconds counted on.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from metabridge.bridge.artifact import Artifact, content_hash, copy_bridge, read_artifact
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training import lock
from metabridge.training.log import read_metrics
from metabridge.training.run_folder import disk, is_foreign, same_run
from metabridge.training.stop import Stop

Build = Callable[[Recipe, Path | None], Bridge]  # a recipe and the folder of the bridge that it starts from
Train = Callable[[Recipe, Bridge, Path, Sequence[Callable[[int, Bridge], None]]], int]  # train() with the same Stop


@dataclass(frozen=True)
class StageRun:
    recipe: Recipe
    folder: Path
    start: Path | None  # the bridge of the stage before

    @property
    def bridge(self) -> Path:
        return self.folder / "bridge"


def stage_runs(recipe: Recipe, out: Path) -> list[StageRun]:
    found: list[StageRun] = []
    for number, (stage, run) in enumerate(zip(recipe.stages, recipe.runs(), strict=True), start=1):
        found.append(StageRun(run, out / "stages" / f"{number}-{stage.name}", found[-1].bridge if found else None))
    return found


@dataclass(frozen=True)
class Stopped:
    """Where a signal ended it: in a run, or at the end of a stage that is not the last."""

    recipe: Recipe
    folder: Path
    done: int


def train_stages(recipe: Recipe, out: Path, build: Build, train: Train, stop: Stop, accept_changes: bool = False) -> Stopped | None:
    """Train what is not finished yet; None where nothing is left.

    A stage starts from the averaged weights (train.ema) of the one before: those are what its bridge holds, what its samples and scores
    show, and what `init` of a finished run starts from. Its optimizer and its average are new.
    """
    main = os.environ.get("RANK", "0") == "0"
    runs = stage_runs(recipe, out)
    before: Artifact | None = None
    with disk(out), claimed(recipe, out, runs, main, accept_changes):
        for run in runs:
            saved = readable(run.bridge)
            same_start(run, saved, before)
            if steps_of(saved) < run.recipe.train.steps:
                follow = [joining(runs, out, run)] if main else []
                train(run.recipe, build(run.recipe, run.start), run.folder, follow)
                AcceleratorState._reset_state()  # the next stage may have another precision
                gc.collect()  # accelerate's autocast ties a bridge to itself, and the next one may not fit beside it
                if main:
                    join_metrics(runs, out)
                saved = read_artifact(run.bridge)
                finished = steps_of(saved) == run.recipe.train.steps
                if main and finished:
                    place(saved, out / "bridge")
                if agreed(stop) and not (finished and run is runs[-1]):
                    return Stopped(run.recipe, run.folder, steps_of(saved))
            before = saved
        assert before is not None  # there is a stage at least
        if main:
            place(before, out / "bridge")
    return None


def agreed(stop: Stop) -> bool:
    """Whether any process was asked to stop, also after the last step of a stage."""
    numbers = gather_object([stop.number])
    return stop.agree(signal.SIGINT in numbers, signal.SIGTERM in numbers)


@contextmanager
def claimed(recipe: Recipe, out: Path, runs: Sequence[StageRun], main: bool, accept_changes: bool) -> Iterator[None]:
    """Make the folder this recipe's, or find that it is already, and hold it. Stages may be added at the end."""
    if not main:  # the first process does it for all
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    path, folders = out / "recipe.yaml", {run.folder.name for run in runs}
    if not path.exists() and is_foreign(out):
        raise UserError(f"{out}: not empty, and no run folder (it has no recipe.yaml); give another --out")
    if path.exists() and not Recipe.load(path).stages:
        raise UserError(f"{out}: holds a run without stages; give another --out")
    if others := sorted(below.name for below in (out / "stages").glob("*") if below.name not in folders):
        raise UserError(f"{out}: holds a stage {others[0]}, this recipe has {', '.join(sorted(folders))}; give another --out")
    with lock.locked(out):
        for run in runs:
            same_stage(run, accept_changes)
        write_whole(path, recipe.dump().encode())
        yield


def same_stage(run: StageRun, accept_changes: bool) -> None:
    """A stage that is finished stays as it is; of one that is not, a change may be accepted when it goes on."""
    path = run.folder / "recipe.yaml"
    if not path.exists():
        return
    changes = same_run(Recipe.load(path), run.recipe, run.folder, accept_changes)
    if changes and steps_of(readable(run.bridge)) >= run.recipe.train.steps:
        raise UserError(f"{run.folder}: finished already ({changes[0]}); use the same, or remove that folder to train the stage anew")


def same_start(run: StageRun, saved: Artifact | None, before: Artifact | None) -> None:
    """What was trained of a stage is worth something beside the start that it had."""
    if saved is None or before is None:
        return
    if saved.config.get("init", {}).get("content_hash") != content_hash(before.tensors):
        raise UserError(
            f"{run.folder}: began from other weights than {run.start} holds now; remove that folder to train the stage anew, "
            "or give another --out"
        )


def readable(bridge: Path) -> Artifact | None:
    """What was saved there; None where there is nothing that can be read."""
    try:
        return read_artifact(bridge)
    except UserError:
        return None


def steps_of(saved: Artifact | None) -> int:
    return 0 if saved is None else saved.config["metrics"].get("steps", 0)


def place(saved: Artifact, folder: Path) -> None:
    """Put a stage's bridge where a run has its own."""
    held = readable(folder)
    if held is None or identity(held) != identity(saved):
        copy_bridge(saved, folder)


def identity(saved: Artifact) -> tuple[str, str]:
    return saved.config["recipe"]["name"], content_hash(saved.tensors)


def joining(runs: Sequence[StageRun], out: Path, run: StageRun) -> Callable[[int, Bridge], None]:
    """A callback that keeps OUT/metrics.jsonl near a running stage's own: at its checkpoints, as the file is written anew each time."""
    every = run.recipe.train.checkpoint_every

    def join(step: int, bridge: Bridge) -> None:
        if every and step % every == 0:
            join_metrics(runs, out)

    return join


def join_metrics(runs: Sequence[StageRun], out: Path) -> None:
    lines, steps, seconds = [], 0, 0.0
    for run in runs:
        path, last = run.folder / "metrics.jsonl", 0.0
        for row in read_metrics(path) if path.exists() else []:
            last = max(last, row.get("seconds", 0.0))
            counted = {"step": row["step"] + steps} | ({"seconds": round(row["seconds"] + seconds, 3)} if "seconds" in row else {})
            lines.append(json.dumps({**row, **counted, "stage": run.folder.name}) + "\n")
        steps, seconds = steps + run.recipe.train.steps, seconds + last
    write_whole(out / "metrics.jsonl", "".join(lines).encode())
