"""The blocks of a model: what its lists of modules hold, which is nearly all of its weights."""

from __future__ import annotations

from torch import nn


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The entries of its outermost lists, in order, that hold a weight."""
    found: list[nn.Module] = []
    for child in model.children():
        found += child if isinstance(child, nn.ModuleList) else blocks_of(child)
    return [block for block in found if next(block.parameters(), None) is not None]
