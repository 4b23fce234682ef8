"""AdamW's parameter groups, the learning rate of a step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metabridge.bridge.settings import Train


def adamw(model: nn.Module, settings: Train) -> torch.optim.AdamW:
    """AdamW over what needs a gradient; norms, biases and queries do not decay."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [parameter for name, parameter in trained if parameter.ndim > 1 and not name.endswith("queries")]
    kept = [parameter for name, parameter in trained if parameter.ndim <= 1 or name.endswith("queries")]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr)


def learning_rate(settings: Train, step: int) -> float:
    """Of the update that follows `step` finished ones: a linear warmup, then constant or half a cosine down to 0."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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
