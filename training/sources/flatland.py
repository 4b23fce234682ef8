"""The embedded world: drawn on the fly, never the same row twice."""

from __future__ import annotations

from metabridge.bridge.errors import UserError
from metabridge.training.feeds import Make
from metabridge.training.flatland.rows import row


class Rows:
    """Rows by seed; a class, so that workers can be sent it."""

    def __init__(self, think: float, reworded: float) -> None:
        self.think, self.reworded = think, reworded

    def __call__(self, seed: int) -> object:
        return row(seed, self.think, self.reworded)


def load(think: float, reworded: float = 0.0) -> Make:
    """`think`: share of rows with a thought; `reworded`: share of captions in other words."""
    if not 0 <= reworded <= 1:
        raise UserError(f"data flatland.reworded: {reworded} given; it is a share of the rows, 0 to 1")
    return Rows(think, reworded)
