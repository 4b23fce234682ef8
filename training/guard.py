"""Steps that would harm: skipped, counted, and after too many in a row undone. Decided from numbers that are the same on every process."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from metabridge.bridge.settings import Train

WINDOW = 100  # good norms that the median is of
ENOUGH = 20  # of them before a norm can be too large
ROLLBACKS = 3  # without a good stretch between them
STRETCH = 100  # good steps after which earlier rollbacks are forgotten


@dataclass
class Guard:
    """All of its state is in the checkpoint, so that a resumed run decides as one that was never stopped."""

    norms: list[float] = field(default_factory=list)  # of the last good steps
    skipped: int = 0  # steps of the run so far
    skipped_in_row: int = 0
    good_in_row: int = 0
    rollbacks: int = 0  # of the run so far
    rollbacks_in_row: int = 0  # without a good stretch
    owed: bool = False  # a checkpoint that was due at a step which was skipped
    anchor: int | None = None  # step of the checkpoint to go back to: the last one that was due, at a good step

    def state(self) -> dict[str, Any]:
        return vars(self) | {"norms": list(self.norms)}

    def judge(self, loss: float, norm: float, settings: Train) -> str | None:
        """Count a step, before its update: None where it is good, else what is wrong with it."""
        wrong = self.wrong(loss, norm, settings.spike)
        if wrong:
            self.skipped += 1
            self.skipped_in_row += 1
            self.good_in_row = 0
            return wrong
        self.norms = [*self.norms, norm][-WINDOW:]
        self.skipped_in_row = 0
        self.good_in_row += 1
        if self.good_in_row >= STRETCH:
            self.rollbacks_in_row = 0
        return None

    def wrong(self, loss: float, norm: float, spike: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of the gradient is {norm}"
        if spike and len(self.norms) >= ENOUGH and norm > spike * (usual := median(self.norms)) > 0:
            return f"the norm of the gradient is {norm:.3g}, {norm / usual:.0f} times the usual {usual:.3g}"
        return None

    def rolled_back(self) -> None:
        self.rollbacks += 1
        self.rollbacks_in_row += 1
        self.skipped_in_row = 0

    @property
    def counts(self) -> dict[str, int]:
        """For metrics.jsonl: nothing where nothing happened."""
        return {name: count for name in ("skipped", "rollbacks") if (count := getattr(self, name))}
