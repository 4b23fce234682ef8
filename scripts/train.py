"""`metabridge train`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.training import recipes


def train_command(name: str, overrides: Sequence[str], out: Path | None, dry_run: bool, processes: int) -> None:
    recipe = Recipe.load(recipes.find(name), overrides)
    out = out or Path("runs") / recipe.name
    if dry_run:
        return show_plan(recipe, out, processes)
    if processes > 1 and "RANK" not in os.environ:
        relaunch(recipe, processes)

    from accelerate import PartialState

    from metabridge.adapters import assemble
    from metabridge.scripts.quiet import quiet
    from metabridge.training.train import train

    quiet()
    done = train(recipe, assemble(recipe), out)
    PartialState().destroy_process_group()
    if done < recipe.train.steps:
        print(f"stopped at step {done} of {recipe.train.steps}, saved in {out}; to go on: {shlex.join(['metabridge', *sys.argv[1:]])}")
        sys.exit(130)
    print(f"{out}/bridge holds the trained bridge; to draw with it: metabridge generate {shlex.quote(str(out))} 'PROMPT' -o out.png")


def relaunch(recipe: Recipe, processes: int) -> None:
    """This command again, once for each process; does not return."""
    import torch

    from metabridge.training.launch import launch
    from metabridge.training.loader import Share

    Share(recipe.train.batch_size, recipe.train.grad_accum, 0, processes)  # it must divide
    devices = torch.cuda.device_count()
    if 0 < devices < processes:
        raise UserError(f"--processes: {processes} given, but there are {devices} GPUs here; give {devices} at most")
    sys.exit(launch(["-m", "metabridge.scripts.cli", *sys.argv[1:]], processes, cuda=devices > 0))


def show_plan(recipe: Recipe, out: Path, processes: int) -> None:
    from rich.console import Console

    from metabridge.adapters import assemble
    from metabridge.scripts.quiet import quiet
    from metabridge.training.data import Mixture
    from metabridge.training.loader import Share
    from metabridge.training.plan import memory_table, parameter_table

    share = Share(recipe.train.batch_size, recipe.train.grad_accum, 0, processes)
    quiet()
    bridge = assemble(recipe)
    Mixture(recipe, bridge.hand)
    console = Console(highlight=False)
    console.print(recipe.dump(), markup=False, soft_wrap=True)
    console.print(parameter_table(bridge))
    console.print(memory_table(recipe, bridge, processes))
    console.print(
        f"{recipe.train.steps} steps of {recipe.train.batch_size} rows: {processes} processes x {recipe.train.grad_accum} accumulated "
        f"x {len(share.rows(0))} rows; into {out}. Nothing was trained (--dry-run).",
        soft_wrap=True,
    )
