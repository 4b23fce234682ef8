"""The loss on rows that training never sees, at the same noise and timesteps each time: comparable across steps and runs."""

from __future__ import annotations

import torch

from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Mixture
from metabridge.training.fixed import BANDS, FixedRows, fix
from metabridge.training.loader import Share


def held_out(recipe: Recipe, mixture: Mixture, bridge: Bridge, share: Share) -> FixedRows:
    """Nothing of them is dropped: the null rows would only add noise."""
    return fix(mixture.held_out, recipe.log.validate_rows, mixture.seed, recipe.objective, bridge.brain.collate, share)


@torch.no_grad()
def validate(bridge: Bridge, rows: FixedRows) -> dict[str, float]:
    """The mean loss, and that of each quarter of the timesteps."""
    losses = rows.gather(torch.cat([bridge(batch) for batch in rows.batches])[:, None])[:, 0]
    bands = {f"validation_loss_{band + 1}": float(losses[band::BANDS].mean()) for band in range(BANDS)}
    return {"validation_loss": float(losses.mean()), **bands}
