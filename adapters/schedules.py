"""Schedulers of diffusers: what they predict, and timesteps set as the official pipelines set them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch

from metabridge.bridge.errors import UserError


def prediction_of(scheduler: Any) -> str:
    """flow | epsilon | v, by what the scheduler takes the output for."""
    if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        return "flow"
    # trigflow is flow matching on a circle: see hands/sana_sprint.py
    kinds = {"flow_prediction": "flow", "trigflow": "flow", "epsilon": "epsilon", "v_prediction": "v"}
    kind = scheduler.config.get("prediction_type")
    if kind not in kinds:
        raise UserError(f"{type(scheduler).__name__}: predicts {kind}; known are {', '.join(kinds)}")
    if kinds[kind] != "flow" and not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"{type(scheduler).__name__}: has no alphas_cumprod to train with; give a checkpoint with another scheduler")
    return kinds[kind]


def shifted(scheduler: Any, steps: int, tokens: int, device: torch.device) -> Any:
    """A copy of a flow scheduler with its timesteps set as the official pipelines do where the shift grows with the picture.

    `tokens`: picture tokens that the denoiser sees. Schedulers without dynamic shifting ignore them.
    """
    return with_mu(scheduler, steps, mu_of(scheduler.config, tokens), device)


def mu_of(config: Mapping[str, Any], tokens: int) -> float:
    """The shift's exponent: linear in tokens, through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift)."""
    near, far = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu: float = low + (high - low) * (tokens - near) / (far - near)
    return mu


def with_mu(scheduler: Any, steps: int, mu: float, device: torch.device) -> Any:
    """A copy of a flow scheduler with evenly spaced sigmas, shifted by mu."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
    return scheduler
