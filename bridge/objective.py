"""What the hand is asked to predict. x0 clean latents, eps noise, s in (0, 1) with 1 = noise, all [B, ...] broadcast over C H W."""

from __future__ import annotations

import torch
from torch import Tensor

from metabridge.bridge.settings import Objective

TRAIN_TIMESTEPS = 1000  # timesteps are in the scheduler's units: t = 1000 s


def sample_sigma(generator: torch.Generator, objective: Objective) -> Tensor:
    """One s in (0, 1), float32 on the CPU."""
    if objective.timesteps == "uniform":
        return shift_sigma(torch.rand((), generator=generator), objective.shift)
    # s = sigmoid(n), n ~ N(0, 1)                                        Esser et al. 2024, eq. 19
    return shift_sigma(torch.randn((), generator=generator).sigmoid(), objective.shift)


def shift_sigma(s: Tensor, shift: float) -> Tensor:
    """More time near noise where shift > 1, as the schedulers do when they sample."""
    # s' = shift s / (1 + (shift - 1) s)                                 Esser et al. 2024, eq. 23
    return shift * s / (1 + (shift - 1) * s)


def flow_noisy(x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
    # x_t = (1 - s) x0 + s eps
    return (1 - s) * x0 + s * eps


def flow_target(x0: Tensor, eps: Tensor) -> Tensor:
    # v = dx_t/ds = eps - x0
    return eps - x0


def diffusion_noisy(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    # x_t = sqrt(a) x0 + sqrt(1 - a) eps,   a = alpha_bar(t)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps


def v_target(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    # v = sqrt(a) eps - sqrt(1 - a) x0                                   Salimans & Ho 2022
    return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over all but the batch: [B, ...] -> [B]."""
    # l_i = mean (prediction_i - target_i)^2
    return (prediction - target).square().flatten(1).mean(dim=1)


def mix_distillation(data: Tensor, distilled: Tensor, weight: float) -> Tensor:
    """Of the rows that have a teacher, [T] each."""
    # l = (1 - w) |p(x_t, c) - target|^2 + w |p(x_t, c) - p(x_t, c_native)|^2
    return (1 - weight) * data + weight * distilled
