"""Does the hand listen to the bridge? Numbers that tell long before the drawings do."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Batch, Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training.data import Drawn, Mixture
from metabridge.training.fixed import FixedRows, fix
from metabridge.training.loader import Share

FEWEST, MOST = 16, 64  # rows
SEARCH = 50  # steps of the data in which rows with different prompts are looked for
QUIET = 0.005  # of the prediction: a change that no drawing shows
FLAT = 0.01  # share of the conditioning that depends on the prompt, below which it is one and the same for all
HEARD = 2.0  # standard errors


@dataclass(frozen=True)
class Diagnosis:
    null_gap: float  # how much the prediction changes when the prompt is taken away, relative to its own size
    shuffle_gap: float  # (loss under another row's prompt - under the row's own) / their sum, -1 to 1; 0 = it makes no difference
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
    """Rows of the training's first steps with a prompt each of their own, in pairs that swap them; None where the data has too few.

    As many as a batch has, within bounds: two to three steps' time, and enough for a standard error.
    """
    rows = distinct(mixture, min(max(share.batch_size // 2 * 2, FEWEST), MOST))
    if len(rows) < FEWEST // 2:
        return None
    return fix(rows.__getitem__, len(rows), mixture.seed, recipe.objective, bridge.brain.collate, share, together=2)


def distinct(mixture: Mixture, count: int) -> list[Drawn]:
    """An even number of rows, `count` at most: all of one size, none dropped, no two with the same words and no picture to differ in."""
    rows: dict[tuple[str, str | None, int], Drawn] = {}
    for step in range(SEARCH):
        if mixture.size(step) != mixture.size(0):
            continue
        for index in range(mixture.batch_size):
            drawn = mixture.row(step, index)
            if drawn.example.prompt:
                rows[drawn.example.prompt, drawn.example.thought, len(rows) if drawn.example.images else -1] = drawn
            if len(rows) == count:
                return list(rows.values())
    return list(rows.values())[: len(rows) // 2 * 2]


@torch.no_grad()
def diagnose(bridge: Bridge, rows: FixedRows) -> Diagnosis:
    conditions = Condition.cat([bridge.conditioned(batch.to(bridge.device)) for batch in rows.batches])
    null = bridge.condition({name: tensor.to(bridge.device) for name, tensor in bridge.brain.collate([Example("")]).items()})
    places = torch.arange(len(rows.own), device=bridge.device).split(len(rows.batches[0].noise_seeds))
    # rows 2k and 2k + 1 swap their prompts: none keeps its own, and a pair is never divided over processes
    found = [
        compare(bridge, batch.to(bridge.device), conditions.rows(place), conditions.rows(place ^ 1), null)
        for batch, place in zip(rows.batches, places, strict=True)
    ]
    table = rows.gather(torch.cat([torch.cat(found), statistics(conditions)], dim=1)).double()
    right, shuffled, change, size = table[:, :4].unbind(1)

    # a = RMS(p(x_t, c) - p(x_t, null)) / RMS(p(x_t, c))
    null_gap = (change.mean() / size.mean()).sqrt()
    # b = mean_i (l_i(c') - l_i(c)) / (l_i(c') + l_i(c)), c' another's: relative for each row, as the loss at some timesteps is many times
    # that at others and would drown it; the two rows of a pair share both prompts, so it is pairs that are independent
    pairs = ((shuffled - right) / (shuffled + right)).view(-1, 2).mean(dim=1)
    rms, spread = loudness(table[:, 4:])
    return Diagnosis(float(null_gap), float(pairs.mean()), float(pairs.std() / len(pairs) ** 0.5), rms, spread, bridge.scale)


def compare(bridge: Bridge, batch: Batch, own: Condition, other: Condition, null: Condition) -> Tensor:
    """Of each row the loss, that under another's prompt, and the mean squares of the prediction's change without a prompt and of itself."""
    other = replace(other, references=own.references)  # it is the words that are swapped or taken away
    null = replace(null.expand(len(batch.noise_seeds)), references=own.references)
    latents = bridge.latents(batch)
    right, shuffled = (bridge.loss(batch, latents, condition) for condition in (own, other))
    told, untold = (bridge.hand.respond(latents, condition, bridge.objective, batch.noise_seeds) for condition in (own, null))
    squares = [tensor.square().flatten(1).mean(dim=1) for tensor in (told - untold, told)]
    return torch.stack([right, shuffled, *(square.to(right) for square in squares)], dim=1)  # [B, 4]


def statistics(condition: Condition) -> Tensor:
    """All that `loudness` needs of each row, [B, 2 + D]: the sum of squares and the number of real tokens, and their mean."""
    embeds = condition.embeds.to(torch.promote_types(condition.embeds.dtype, torch.float32))  # bfloat16 would not see small differences
    real = condition.mask.to(embeds)[..., None]
    kept = embeds * real
    count = real.sum(dim=1)  # [B, 1]
    return torch.cat([kept.square().sum(dim=(1, 2))[:, None], count, kept.sum(dim=1) / count], dim=1)


def loudness(statistics: Tensor) -> tuple[float, float]:
    """RMS of the conditioning over real tokens, and the share of it that differs between prompts: 0 would draw the same for all."""
    squares, count, mean = statistics[:, 0], statistics[:, 1], statistics[:, 2:]
    # r = sqrt(sum e^2 / (tokens D)),  spread = RMS_i(m_i - mean_j m_j) / r,  m_i the mean over the tokens of row i
    rms = (squares.sum() / (count.sum() * mean.shape[1])).sqrt()
    return float(rms), float((mean - mean.mean(dim=0)).square().mean().sqrt() / rms)


def warning(found: Diagnosis, recipe: Recipe) -> str:
    """What was seen, and what to try: by what the numbers say of the cause."""
    seen = (
        f"the hand does not listen to the bridge: shuffled against right prompts, the loss differs by {found.shuffle_gap:+.2%} "
        f"of their sum (standard error {found.shuffle_error:.2%}); without a prompt, the prediction by {found.null_gap:.2%}"
    )
    if found.spread < FLAT:
        return (
            f"{seen}; the connector says the same for every prompt ({found.spread:.2%} of its RMS {found.rms:.3g} differs between them). "
            "Lower train.lr or lengthen train.warmup, tap a middle layer too (connector.taps), and ask the brain itself "
            "(metabridge generate --think): weights or a chat template that are not its own leave nothing to read"
        )
    ratio = found.rms / found.native_rms
    if not 0.1 < ratio < 10:
        return (
            f"{seen}; the connector's RMS is {found.rms:.3g}, the hand is used to {found.native_rms:.3g}. "
            "Lower train.lr and train.clip, and start again"
        )
    tries = ["train longer or raise train.lr"]
    if recipe.objective.distill < 1:
        tries.append("set objective.distill=1 for the first steps, if the hand has a text encoder of its own to learn from")
    if recipe.hand.options.get("train", "none") == "none":
        tries.append("set hand.train=lora")
    return f"{seen}; the connector does tell prompts apart. See that the prompts fit the pictures, then {', or '.join(tries)}"
