"""Keep what the words leave alone: where they hardly change the prediction, each step goes back to the source picture.

The regions are found as in DiffEdit (arXiv 2210.11427), from the difference between the predictions with and without the words; here
relative to the greatest difference in the picture, over several noises and timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metabridge.bridge.interfaces import Condition, Hand
from metabridge.bridge.objective import flow_noisy
from metabridge.bridge.settings import Objective

NOISES = 8  # of which a row's differences are the mean

Adjust = Callable[[Any, int, Tensor], Tensor]  # (scheduler, step, latents after it) -> latents


@torch.no_grad()
def changed(hand: Hand, source: Tensor, told: Condition, untold: Condition, strength: float) -> Tensor:
    """Where the words change something, [B, 1, h, w] of 0 and 1. `strength` in 0..1: 0 = everywhere, 1 = nowhere."""
    differences = []
    for noise in range(NOISES):
        seeds = [noise] * len(source)
        one, other = (hand.respond(source, condition, Objective(), seeds) for condition in (told, untold))
        differences.append((one - other).abs().mean(dim=1, keepdim=True))
    # m = mean_k |p(x_k, c) - p(x_k, null)|, relative to its maximum
    mean = torch.stack(differences).mean(dim=0)
    relative = mean / mean.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
    here = (relative > strength).to(source.dtype)
    return F.max_pool2d(here, 3, stride=1, padding=1)  # a cell more all around: borders of what changes


def keeping(source: Tensor, noise: Tensor, change: Tensor, flow: bool) -> Adjust:
    """After each step, all but `change` is the source with as much noise as the step leaves. `noise`: what the drawing began with."""

    def adjust(scheduler: Any, step: int, latents: Tensor) -> Tensor:
        if step + 1 == len(scheduler.timesteps):
            left = source
        elif flow:
            left = flow_noisy(source, noise, scheduler.sigmas[step + 1].to(source))
        else:
            left = scheduler.add_noise(source, noise, scheduler.timesteps[step + 1].expand(len(source)))
        return change * latents + (1 - change) * left

    return adjust
