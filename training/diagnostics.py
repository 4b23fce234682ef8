"""Does the hand listen to the bridge? Numbers that tell long before the drawings do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Drawn, Mixture
from metabridge.training.fixed import FixedRows, fix
from metabridge.training.loader import Share

ROWS = (16, 64)  # as many as the batch has, but at least and at most these: two to three steps' time, and enough for a standard error
SEARCH = 50  # steps of the data in which rows with different prompts are looked for
QUIET = 0.005  # of the prediction: a change that no drawing shows
FLAT = 0.01  # share of the conditioning that depends on the prompt, below which it is one and the same for all
HEARD = 2.0  # standard errors


@dataclass(frozen=True)
class Diagnosis:
    null_gap: float  # how much the prediction changes when the prompt is taken away, relative to its own size
    shuffle_gap: float  # by how much the loss grows under another row's prompt, relative to the loss
    shuffle_error: float  # standard error of that
    rms: float  # of the conditioning
    spread: float  # share of it that is the difference between prompts
    native_rms: float  # of the hand's own conditioning

    @property
    def ignored(self) -> bool:
        """Whether the hand draws as if it had not been told anything, or anything of use."""
        return self.null_gap < QUIET or self.shuffle_gap <= HEARD * self.shuffle_error

    def metrics(self) -> dict[str, float]:
        return {
            "null_gap": self.null_gap,
            "shuffle_gap": self.shuffle_gap,
            "shuffle_gap_error": self.shuffle_error,
            "condition_rms": self.rms,
            "condition_spread": self.spread,
        }


def fixed_pairs(recipe: Recipe, mixture: Mixture, bridge: Bridge, share: Share) -> FixedRows | None:
    """Rows of the training's first steps with a prompt each of their own, in pairs that swap them; None where the data has too few."""
    fewest, most = ROWS
    rows = distinct(mixture, min(max(recipe.train.batch_size, fewest), most))
    if len(rows) < fewest // 4:
        return None
    return fix(rows.__getitem__, len(rows), mixture.seed, recipe.objective, bridge.brain.collate, share, together=2)


def distinct(mixture: Mixture, count: int) -> list[Drawn]:
    """An even number of rows, `count` at most: all of one size, none dropped, no two with the same words and no picture to differ in."""
    rows: dict[tuple[str, str | None, int], Drawn] = {}
    same_size = (step for step in range(SEARCH) if mixture.size(step) == mixture.size(0))
    for step, index in itertools.product(same_size, range(mixture.batch_size)):
        drawn = mixture.row(step, index)
        if drawn.example.prompt:
            rows[drawn.example.prompt, drawn.example.thought, len(rows) if drawn.example.images else -1] = drawn
        if len(rows) == count:
            break
    return list(rows.values())[: len(rows) // 2 * 2]


@torch.no_grad()
def diagnose(bridge: Bridge, rows: FixedRows) -> Diagnosis:
    conditions = Condition.cat([bridge.condition(batch.to(bridge.device).inputs) for batch in rows.batches])
    null = bridge.condition({name: tensor.to(bridge.device) for name, tensor in bridge.brain.collate([Example("")]).items()})
    here = torch.arange(len(rows.own), device=bridge.device)
    found = []
    for batch, part in zip(rows.batches, here.split(len(rows.batches[0].noise_seeds)), strict=True):
        # rows 2k and 2k + 1 swap their prompts: no row keeps its own, and a pair is never divided over processes
        found.append(compare(bridge, batch.to(bridge.device), conditions.rows(part), conditions.rows(part ^ 1), null))
    right, shuffled, change, size = rows.gather(torch.cat(found)).double().unbind(1)

    # a = RMS(p(x_t, c) - p(x_t, null)) / RMS(p(x_t, c))
    null_gap = (change.mean() / size.mean()).sqrt()
    # b = (mean l(x, c') - mean l(x, c)) / mean l(x, c);  the two rows of a pair share both conditions, so that pairs are what is independent
    pairs = (shuffled - right).view(-1, 2).mean(dim=1) / right.mean()
    loud = loudness(conditions)
    return Diagnosis(
        null_gap=float(null_gap),
        shuffle_gap=float(pairs.mean()),
        shuffle_error=float(pairs.std() / len(pairs) ** 0.5),
        rms=loud.rms,
        spread=loud.spread,
        native_rms=bridge.scale,
    )


def compare(bridge: Bridge, batch: object, own: Condition, other: Condition, null: Condition) -> Tensor:
    """For each row its loss, that under another's prompt, and the mean squares of the prediction's change without prompt and of itself: [B, 4]."""
    raise NotImplementedError
