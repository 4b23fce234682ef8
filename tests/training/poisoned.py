"""Rows with NaN pixels at chosen steps; the same training written out plainly; and one process of a launched run: RECIPE OUT STEP..."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metabridge.adapters import assemble
from metabridge.bridge.attention import fastest_attention
from metabridge.bridge.model import Batch, in_range
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Mixture
from metabridge.training.loader import load
from metabridge.training.optim import learning_rate
from metabridge.training.seeds import row_seed
from metabridge.training.train import train


def poison(recipe: Recipe, bridge: Any, steps: Sequence[int]) -> None:
    """The first row of these steps (counted from 0) comes with pixels that are NaN."""
    bad = {row_seed(recipe.train.seed, step, 0, "noise") for step in steps}

    def damage(module: nn.Module, inputs: tuple[Batch]) -> tuple[Batch]:
        (batch,) = inputs
        hit = torch.tensor([seed in bad for seed in batch.noise_seeds])
        pixels = in_range(batch.pixels).masked_fill(hit[:, None, None, None], torch.nan)
        return (dataclasses.replace(batch, pixels=pixels),)

    bridge.register_forward_pre_hook(damage)


def plainly(recipe: Recipe, bridge: Any, plan: Sequence[int | str]) -> dict[str, Any]:
    """The steps of `plan` in the words of torch alone; "keep" notes all there is, "back" returns to it."""
    settings, weights = recipe.train, bridge.trained()
    names = list(weights)
    decayed = [name for name in names if weights[name].ndim > 1 and name != "queries"]
    groups = [[weights[name] for name in decayed], [weights[name] for name in names if name not in decayed]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": settings.weight_decay}, {"params": groups[1], "weight_decay": 0.0}]
    )
    ema = {name: tensor.detach().clone() for name, tensor in weights.items()}
    mixture, kept = Mixture(recipe, bridge.hand), None
    for step in plan:
        if step == "keep":
            kept = copy.deepcopy(({name: tensor.detach() for name, tensor in weights.items()}, optimizer.state_dict(), ema))
        elif step == "back":
            before, moments, ema = copy.deepcopy(kept)
            optimizer.load_state_dict(moments)
            with torch.no_grad():
                for name in names:
                    weights[name].copy_(before[name])
        else:
            torch.manual_seed(row_seed(settings.seed, step, 0, "step"))
            optimizer.zero_grad()
            with fastest_attention(bridge.device):
                bridge(load(mixture, bridge.brain.collate, step, range(settings.batch_size)).batch).mean().backward()
            nn.utils.clip_grad_norm_(weights.values(), settings.clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, settings.lr)
            optimizer.step()
            decay = min(settings.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for name in names:
                    ema[name].lerp_(weights[name], 1 - decay)
    moments = {name: optimizer.state[weights[name]] for name in names}
    return {"weights": {name: tensor.detach() for name, tensor in weights.items()}, "ema": ema, "moments": moments}


def main(recipe_file: str, out: str, *steps: str) -> None:
    recipe = Recipe.load(recipe_file)
    bridge = assemble(recipe)
    poison(recipe, bridge, [int(step) for step in steps])
    train(recipe, bridge, Path(out))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
