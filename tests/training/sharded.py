"""One process of the runs with sharded parts that a test starts: RECIPE FOLDER. What the first process finds goes to FOLDER/result.pt."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from metabridge.adapters import assemble
from metabridge.bridge.artifact import content_hash
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.plan import memory
from metabridge.training.sharding import local
from metabridge.training.train import train

LORA = ["hand.train=lora", "hand.gradient_checkpointing=true", "objective.distill=0.5", "connector.taps=[2]"]


def first_gradient(recipe_file: str, folder: Path, *overrides: str) -> dict[str, Tensor]:
    recipe = Recipe.load(recipe_file, ["train.steps=1", "train.clip=0", *overrides])
    bridge = assemble(recipe)
    train(recipe, bridge, folder / "-".join(["first", *overrides]).replace(".", "-"))
    return {name: tensor.grad.clone() for name, tensor in bridge.trained().items() if tensor.grad is not None}


def four_steps(recipe_file: str, folder: Path, *overrides: str, stop_at: int = 0) -> tuple[Recipe, Bridge]:
    """In float64, with a LoRA, taps at half depth, a teacher, sheets drawn; ended after `stop_at` steps and begun again."""
    recipe = Recipe.load(recipe_file, ["train.steps=4", "train.precision=float64", "log.sample_every=3", *LORA, *overrides])

    def interrupt(step: int, bridge: Bridge) -> None:
        if step == stop_at and os.environ.get("RANK") == "1":  # one process hears of it, all stop
            os.kill(os.getpid(), signal.SIGTERM)

    if stop_at:
        assert train(recipe, assemble(recipe), folder / "four", [interrupt]) == stop_at + 1
    bridge = assemble(recipe)
    assert train(recipe, bridge, folder / "four") == 4
    return recipe, bridge


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def main(recipe_file: str, folder: str) -> None:
    result: dict[str, Any] = {"gradient": first_gradient(recipe_file, Path(folder), "train.shard=both")}
    quantized = ("train.shard=brain", "brain.quantize=nf4", "brain.dtype=bfloat16")
    result["quantized"] = first_gradient(recipe_file, Path(folder), *quantized)
    recipe, bridge = four_steps(recipe_file, Path(folder), "train.shard=both", stop_at=1)
    result["weights"] = {name: tensor.detach() for name, tensor in bridge.trained().items()}
    result["frozen"] = content_hash(whole(bridge.frozen()))
    result["bytes"] = sum(x.nbytes for x in local({k: p for k, p in bridge.named_parameters() if not p.requires_grad}).values())
    result["planned"] = memory(recipe, bridge_in_float64(recipe), processes=2)["frozen weights"]
    if torch.distributed.get_rank() == 0:
        torch.save(result, Path(folder) / "result.pt")
    torch.distributed.destroy_process_group()


def bridge_in_float64(recipe: Recipe) -> Bridge:
    return assemble(recipe).double()


if __name__ == "__main__":
    main(*sys.argv[1:])
