"""One process of the training runs that a test launches: RECIPE FOLDER. Two processes take the rows that one takes in two parts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from metabridge.adapters import assemble
from metabridge.bridge.recipe import Recipe
from metabridge.training.train import train

Tensors = dict[str, Tensor]


def first_gradient(recipe_file: str, folder: Path, parts: int) -> Tensors:
    recipe = Recipe.load(recipe_file, ["train.steps=1", "train.clip=0", f"train.grad_accum={parts}"])
    bridge = assemble(recipe)
    train(recipe, bridge, folder / f"first-{parts}")
    return {name: tensor.grad.clone() for name, tensor in bridge.trained().items() if tensor.grad is not None}


def four_steps(recipe_file: str, folder: Path, parts: int = 1) -> Tensors:
    recipe = Recipe.load(recipe_file, ["train.steps=4", "train.precision=float64", f"train.grad_accum={parts}"])
    bridge = assemble(recipe)
    train(recipe, bridge, folder / f"four-{parts}")
    return {name: tensor.detach() for name, tensor in bridge.trained().items()}


def main(recipe_file: str, folder: str) -> None:
    result = first_gradient(recipe_file, Path(folder), 1), *(four_steps(recipe_file, Path(folder), parts) for parts in (1, 2))
    if torch.distributed.get_rank() == 0:
        torch.save(result, Path(folder) / "result.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
