"""AdamW's parameter groups, the learning rate of a step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Train


def adamw(model: nn.Module, settings: Train) -> torch.optim.AdamW:
    """AdamW over what needs a gradient, a group for each part and decay; `peak` is the group's own learning rate."""
    hand = settings.lr_hand or settings.lr
    peaks = {
        "queries": settings.lr_queries or settings.lr,
        "connector": settings.lr,
        "hand": hand,
        "references": settings.lr_references or hand,
    }
    found: dict[tuple[str, bool], list[Tensor]] = {(part, decays): [] for part in peaks for decays in (True, False)}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in trained.items():
        found[part_of(name), decays(name, parameter)].append(parameter)
    parts = {part_of(name) for name in trained}
    if settings.lr_hand and not parts & {"hand", "references"}:
        raise UserError(f"train.lr_hand: {settings.lr_hand:g} given, but nothing of the hand is trained; set hand.train, or leave it out")
    if settings.lr_references and "references" not in parts:
        raise UserError(
            f"train.lr_references: {settings.lr_references:g} given, but no input for source pictures is trained; "
            "set hand.references, or leave it out"
        )
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": settings.weight_decay if decayed else 0.0, "peak": peaks[part]}
        for (part, decayed), parameters in found.items()
        if parameters
    ]
    # fused on CUDA alone: one kernel in place of many there; on a CPU its last bits differ from those of earlier versions
    return torch.optim.AdamW(groups, lr=settings.lr, fused=all(parameter.is_cuda for parameter in trained.values()) or None)


def part_of(name: str) -> str:
    """Whose learning rate a trained parameter takes."""
    if name.startswith("hand.reference_input."):
        return "references"
    return {"queries": "queries", "hand": "hand"}.get(name.split(".")[0], "connector")


def decays(name: str, parameter: Tensor) -> bool:
    """Matrices do; norms, biases and queries do not."""
    return parameter.ndim > 1 and not name.endswith("queries")


def restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Moments from a checkpoint; rates and decays stay the recipe's."""
    saved = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [kept | {key: value for key, value in own.items() if key != "params"} for kept, own in saved]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def learning_rate(settings: Train, step: int, peak: float) -> float:
    """Of the update that follows `step` finished ones: a linear warmup to `peak`, then as the schedule says."""
    if step < settings.warmup:
        return peak * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "cosine":
        progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        # wsd: warmup, stable, then linear over the last steps                Hu et al. 2024 (MiniCPM), arXiv:2404.06395
        share = min(1.0, max(0, settings.steps - step) / (settings.decay * settings.steps))
    return peak * (settings.min_lr + (1 - settings.min_lr) * share)


class EMA:
    """An exponential moving average of the trained weights. The first steps forget faster, so that it does not drag the start along."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        # average = d average + (1 - d) weight,  d = min(decay, (1 + step) / (10 + step))
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.weights)
        torch._foreach_lerp_([self.weights[name] for name in names], [weights[name].detach() for name in names], 1 - decay)


@contextmanager
def swapped(weights: Mapping[str, Tensor], averaged: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Put `averaged` into the model's own tensors `weights` for a while; the very same bits come back."""
    if averaged is None:
        yield
        return
    kept = {name: tensor.detach().clone() for name, tensor in weights.items()}
    copy(averaged, weights)
    try:
        yield
    finally:
        copy(kept, weights)


@torch.no_grad()
def copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
