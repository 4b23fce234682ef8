"""`metabridge train`; for a launcher of processes also `python -m metabridge.scripts.train`, with the same arguments."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.benchmark import refuse, train
from metabridge.training import recipes

if TYPE_CHECKING:
    from metabridge.bridge.model import Bridge

STARTED = "METABRIDGE_STARTED"  # in the environment of processes that --processes has started


def train_command(
    name: str, overrides: Sequence[str], out: Path | None, dry_run: bool, processes: int, accept_changes: bool = False
) -> None:
    recipe = Recipe.load(recipes.find(name), overrides)
    out = out or Path("runs") / recipe.name
    for run in recipe.runs():
        refuse(run)
    if dry_run:
        return show_plan(recipe, out, processes)
    if processes > 1 and (started := int(os.environ.get("WORLD_SIZE", "0"))) not in (0, processes):
        raise UserError(f"--processes: {processes} given, but a launcher has started {started} already; leave the option out")
    if processes > 1 and "RANK" not in os.environ:
        relaunch(recipe, processes)

    from accelerate import PartialState

    from metabridge.scripts.quiet import quiet
    from metabridge.training.stages import Stopped, train_stages
    from metabridge.training.stop import Stop

    quiet()
    stop = Stop()
    if recipe.stages:
        stopped = train_stages(recipe, out, build, functools.partial(train, stop=stop, accept_changes=accept_changes), stop, accept_changes)
    else:
        done = train(recipe, build(recipe), out, stop=stop, accept_changes=accept_changes)
        stopped = Stopped(recipe, out, done) if done < recipe.train.steps else None
    main = PartialState().is_main_process
    PartialState().destroy_process_group()
    if stopped:
        where = f"step {stopped.done} of {stopped.recipe.train.steps}, saved in {stopped.folder}"
        again = f"to go on: {shlex.join(['metabridge', *sys.argv[1:]])}" if ours() else "to go on, start it again as before"
        if main:
            print(f"stopped at {where}; {again}")
        sys.exit(stop.code)
    if main:
        print(f"{out}/bridge holds the trained bridge; to draw with it: metabridge generate {shlex.quote(str(out))} 'PROMPT' -o out.png")


def ours() -> bool:
    """Whether the user's command was `metabridge`, and no launcher's."""
    return "WORLD_SIZE" not in os.environ or STARTED in os.environ


def build(recipe: Recipe, init: Path | None = None) -> Bridge:
    from metabridge.adapters import assemble

    bridge = assemble(recipe, init=init)
    if bridge.init and os.environ.get("RANK", "0") == "0":
        print(f"{recipe.name}: starts from the weights of {bridge.init['path']}")
    return bridge


def relaunch(recipe: Recipe, processes: int) -> None:
    """This command again, once for each process; does not return."""
    import torch

    from metabridge.training.launch import launch
    from metabridge.training.loader import Share

    os.environ[STARTED] = "1"
    for run in recipe.runs():
        Share(run.train.batch_size, run.train.grad_accum, 0, processes)  # it must divide
    devices = torch.cuda.device_count()
    if 0 < devices < processes:
        raise UserError(f"--processes: {processes} given, but there are {devices} GPUs here; give {devices} at most")
    sys.exit(launch(["-m", "metabridge.scripts.cli", *sys.argv[1:]], processes, cuda=devices > 0))


def show_plan(recipe: Recipe, out: Path, processes: int) -> None:
    """Of each stage, where there are stages."""
    from metabridge.training.stages import stage_runs

    if not recipe.stages:
        return show_run(recipe, out, processes)
    for stage in stage_runs(recipe, out):
        print(f"stage {stage.folder.name}" + (f", from the weights of {stage.start}" if stage.start else ""))
        show_run(stage.recipe, stage.folder, processes)


def show_run(recipe: Recipe, out: Path, processes: int) -> None:
    from rich.console import Console

    from metabridge.adapters import assemble
    from metabridge.scripts.quiet import quiet
    from metabridge.training.data import Mixture
    from metabridge.training.loader import Share
    from metabridge.training.plan import memory_table, parameter_table, readable

    share = Share(recipe.train.batch_size, recipe.train.grad_accum, 0, processes)
    quiet()
    bridge = assemble(recipe)
    Mixture(recipe, bridge.hand)
    console = Console(highlight=False)
    console.print(recipe.dump(), markup=False, soft_wrap=True)
    console.print(parameter_table(bridge))
    console.print(memory_table(recipe, bridge, processes))
    size = readable(sum(tensor.nbytes for tensor in bridge.trained().values()))
    console.print(
        f"{recipe.train.steps} steps of {recipe.train.batch_size} rows: {processes} processes x {recipe.train.grad_accum} accumulated "
        f"x {len(share.rows(0))} rows; into {out}, a bridge of {size}. Nothing was trained (--dry-run).",
        soft_wrap=True,
    )


if __name__ == "__main__":
    from metabridge.scripts.cli import main

    sys.argv[1:1] = ["train"]
    main()
