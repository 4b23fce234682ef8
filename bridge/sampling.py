"""The denoising loop and guidance. Schedulers are diffusers', handed in; latents stay in float32."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metabridge.bridge.interfaces import Condition

Guide = Callable[
    [Sequence[Tensor], Sequence[float]], Tensor
]  # predictions from the weakest condition to the full one, a scale for each step up
Predict = Callable[[Tensor, Tensor, Condition], Tensor]  # latents [B, C, h, w], timestep [B], condition -> prediction


def guide(predictions: Sequence[Tensor], guidance: Sequence[float]) -> Tensor:
    """Predictions from the weakest condition to the full one, a scale for each step up.

    Text to image: null, full.  Edit: (no picture, no text), (picture, no text), (picture, text).
    """
    # v = v_0 + sum_k s_k (v_k - v_{k-1});  two rows: Ho & Salimans 2022, three: InstructPix2Pix eq. 3
    guided = predictions[0]
    for weaker, stronger, scale in zip(predictions, predictions[1:], guidance, strict=False):
        guided = guided + scale * (stronger - weaker)
    return guided


def initial_noise(shape: tuple[int, int, int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """[B, C, h, w], each row from its own CPU generator, so that it depends on neither device nor batch."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


@torch.no_grad()
def denoise(
    predict: Predict,
    guide: Guide,
    scheduler: Any,
    latents: Tensor,
    condition: Condition,
    nulls: Sequence[Condition],
    guidance: Sequence[float],
    generators: Sequence[torch.Generator],
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    adjust: Callable[[Any, int, Tensor], Tensor] | None = None,
) -> Tensor:
    """From noise to latents [B, C, h, w] with a scheduler whose timesteps are set. All rows of guidance go through one call.

    `adjust(scheduler, step, latents)` may change the latents after a step.
    """
    if len(nulls) != len(guidance):
        raise ValueError(f"{len(nulls)} null conditions but {len(guidance)} scales")
    batch, rows = len(latents), len(nulls) + 1
    conditions = Condition.cat([*(null.expand(batch) for null in nulls), condition])
    accepted = inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if "generator" in accepted else {}  # for samplers that add noise on the way
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for step, timestep in enumerate(scheduler.timesteps):
        noisy = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        predicted = predict(noisy.repeat(rows, 1, 1, 1), timestep.expand(rows * batch), conditions)
        guided = guide(predicted.chunk(rows), guidance)
        latents = scheduler.step(guided, timestep, latents, **extra, return_dict=False)[0]
        if adjust is not None:
            latents = adjust(scheduler, step, latents)
        if callback is not None:
            callback(step, timestep, latents)
    return latents
