"""What a step changes: the trained weights, AdamW's moments, their moving average, and what the guard has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.settings import Train
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.guard import Guard
from metabridge.training.optim import EMA, adamw, copy, learning_rate, restore


class Learner:
    def __init__(self, bridge: Bridge, settings: Train) -> None:
        self.settings = settings
        self.weights: Mapping[str, Tensor] = bridge.trained()
        self.optimizer = adamw(bridge, settings)
        self.ema = EMA(self.weights, settings.ema) if settings.ema else None
        self.guard = Guard()

    @property
    def averaged(self) -> Mapping[str, Tensor] | None:
        """The weights that are drawn with and saved as the bridge; None = the trained ones themselves."""
        return self.ema.weights if self.ema else None

    def update(self, step: int) -> None:
        """From the gradients at hand; `step` updates were made or skipped before."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step, group["peak"])
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.weights, step)

    def checkpoint(
        self,
        step: int,
        loss: float,
        window: list[float],
        seconds: float,
        base: Mapping[str, Mapping[str, str]],
        data: Mapping[str, Any],
    ) -> Checkpoint:
        return Checkpoint(
            step=step,
            weights=dict(self.weights),
            optimizer=self.optimizer.state_dict(),
            ema=dict(self.ema.weights) if self.ema else None,
            guard=self.guard.state(),
            window=window,
            seconds=seconds,
            loss=loss,
            base={kind: dict(identity) for kind, identity in base.items()},
            data=dict(data),
        )

    def take(self, state: Checkpoint) -> None:
        """Be as a checkpoint was. The guard is not among it: after going back it still knows why."""
        shapes = {name: tensor.shape for name, tensor in self.weights.items()}
        if shapes != (before := {name: tensor.shape for name, tensor in state.weights.items()}):
            name = min(key for key in shapes.keys() | before.keys() if shapes.get(key) != before.get(key))
            raise UserError(
                f"checkpoint of step {state.step}: {name} is {size(before.get(name))} there and {size(shapes.get(name))} in this recipe; "
                "no --accept-changes can carry such weights over, give another --out"
            )
        copy(state.weights, self.weights)
        restore(self.optimizer, state.optimizer)
        if self.ema:
            copy(state.ema or state.weights, self.ema.weights)

    def is_finite(self) -> bool:
        """Waits for the device: asked before a save."""
        return bool(torch.stack([tensor.isfinite().all() for tensor in self.weights.values()]).all())


def size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
