"""`metabridge data cache`: latents of the targets, and native conditions of the captions where they are distilled from, worked out once."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.training import recipes


def cache_command(name: str, overrides: Sequence[str], out: Path | None, processes: int) -> None:
    recipe = Recipe.load(recipes.find(name), overrides)
    root = (out or Path(recipe.train.cache if recipe.train.cache != "off" else "cache")).expanduser()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and world == 1:
        import torch

        from metabridge.training.launch import launch

        sys.exit(launch(["-m", "metabridge.scripts.cli", *sys.argv[1:]], processes, cuda=torch.cuda.is_available()))
    # its stages, where it has some: what they share is there already for the second
    if not any([work_out(run, root, rank, world) for run in recipe.runs()]):
        raise UserError(f"data cache: no source of {recipe.name} keeps its rows (they are made, or streamed); there is nothing to keep")
    if rank == 0:
        print(f"to train with it: {shlex.join(['metabridge', 'train', name, *overrides, f'train.cache={root}'])}")


def work_out(recipe: Recipe, root: Path, rank: int, world: int) -> bool:
    """Every `world`-th shard that is missing; whether there is a source with any."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from metabridge.adapters import load
    from metabridge.scripts.quiet import quiet
    from metabridge.training.cache import SourceCache, fill
    from metabridge.training.data import Mixture
    from metabridge.training.feeds import Tabled
    from metabridge.training.plan import readable
    from metabridge.training.run_folder import disk

    quiet()
    hand = load("hands", recipe.hand)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")
    hand.to(device)
    mixture = Mixture(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, cache="off")), hand)
    tables = [(k, feed) for k, feed in enumerate(mixture.feeds) if isinstance(feed, Tabled)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with disk(root), Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), disable=rank > 0) as progress:
        for k, feed in tables:
            source = mixture.sources[k]
            cache = SourceCache(root, source, feed, hand, mixture.frames, recipe.objective.latents)
            shards = range(rank, cache.shards, world)
            task = progress.add_task(source.source, total=sum(len(cache.rows(shard)) for shard in shards))
            for rows in fill(cache, hand, mixture.frames, shards, mixture.distill, device):
                progress.advance(task, rows)
            if rank == 0:
                folders = [cache.latents_of.folder, *([cache.native_of.folder] if mixture.distill else [])]
                size = readable(sum(file.stat().st_size for folder in folders for file in folder.glob("[0-9]*.safetensors")))
                say = f"{source.source}: {cache.kept()} of {sum(feed.table.blocks)} rows kept, {size} in {', '.join(map(str, folders))}"
                progress.console.print(say, soft_wrap=True, highlight=False)
    return bool(tables)
