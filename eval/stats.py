"""Intervals over prompts. The pictures of one prompt are not independent, so the prompt is what is resampled (a cluster).

A stratum is a group of prompts: a tag, a kind. Each is resampled on its own, and the benchmark's own aggregate is computed anew on each
draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metabridge.bridge.errors import UserError
from metabridge.eval.sums import (
    Picture,
    Weights,
    closed_form,
    difference,
    draw,
    effective_prompts,
    filled,
    group_weights,
    known,
    sums_of,
    value_of,
)

RESAMPLES = 10_000
Z = 1.959963984540054  # the standard normal's 0.975 quantile
Z_POWER = 0.8416212335729143  # its 0.8 quantile
_TIE = 1e-12  # values of resamples that are closer differ by rounding alone

Clusters = Mapping[str, Mapping[str, Sequence[Picture]]]  # group -> prompt -> pictures


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float  # 95%, percentile bootstrap over prompts
    high: float
    stderr: float | None  # closed form, as a cross-check; None where a stratum has one prompt
    n: int  # pictures
    prompts: int
    p: float | None = None  # of a difference: two-sided, from the same bootstrap


def estimate(
    clusters: Clusters,
    weights: Weights = "equal",
    within: str = "mean",
    *,
    better: str = "higher",
    low: float | None = 0.0,
    high: float | None = 1.0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The aggregate of groups over what is scored. `within` a prompt: mean | any (the best picture) | ratio (sum of points / of how many).

    A ratio with weights `prompts` is one of the sums over all groups. `low` and `high` are the ends of the scale: where all prompts score
    alike, resampling shows no spread, and Wilson's interval stands in, on as many prompts as the weights leave. It is meant for right and
    wrong; for values between it is too wide, never too narrow.
    """
    sums = sums_of(known(clusters, within, better), weights)
    value, (bottom, top) = value_of([sums]), np.quantile(draw([sums], resamples), (0.025, 0.975))
    if top - bottom <= _TIE * max(1.0, abs(value)) and low is not None and high is not None:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        bottom, top = (low + (high - low) * end for end in wilson(share, effective_prompts(sums)))
    return Estimate(value, float(bottom), float(top), closed_form([sums]), sums.pictures, sums.prompts)


def paired_estimate(
    first: Clusters,
    second: Clusters,
    weights: Weights = "equal",
    within: str = "mean",
    *,
    better: str = "higher",
    resamples: int = RESAMPLES,
) -> Estimate:
    """first - second over the prompts that both have scored; a draw takes the same prompts of both.

    p inverts the interval: twice the smaller share of draws on either side of 0, ties on both. A share is (1 + count) / (1 + draws), as
    what was seen is a draw itself, so p is never below 2 / (1 + draws). Nor is it below 2^(1 - m), the least that flipping the signs of
    the m prompts that differ can give: a bootstrap of few prompts is too sure.
    """
    ours, theirs = (known(side, within, better) for side in (first, second))
    shared = {group: [prompt for prompt in own if prompt in theirs.get(group, {})] for group, own in ours.items()}
    if lost := next((group for group in (*first, *second) if not shared.get(group)), None):
        raise UserError(f"{lost}: no prompt of it is scored on both sides; compare results on the same prompts")
    a, b = (
        sums_of({g: {prompt: side[g][prompt] for prompt in prompts} for g, prompts in shared.items()}, weights) for side in (ours, theirs)
    )
    sides = difference(a, b)
    draws = draw(sides, resamples)
    bottom, top = np.quantile(draws, (0.025, 0.975))
    differ = sum(int(((na != nb) | (da != db)).sum()) for na, nb, da, db in zip(a.num, b.num, a.den, b.den, strict=True))
    p = _p_value(draws, differ)
    return Estimate(value_of(sides), float(bottom), float(top), closed_form(sides), min(a.pictures, b.pictures), a.prompts, p)


def bounds(
    clusters: Clusters,
    weights: Weights = "equal",
    within: str = "mean",
    *,
    better: str = "higher",
    low: float | None = 0.0,
    high: float | None = 1.0,
) -> tuple[float | None, float | None]:
    """The least and the most that the aggregate can come to, whatever the unscored pictures score; None where the scale has no such end.

    Of how many an unscored picture of a ratio is, is not known: as many as the others of its prompt, else of its group, on average.
    """

    def at(end: float | None) -> float | None:
        if end is None:
            return None
        return value_of([sums_of(known({group: filled(prompts, end) for group, prompts in clusters.items()}, within, better), weights)])

    return at(low), at(high)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of a family of m tests: the i-th smallest becomes max over j <= i of min(1, (m - j + 1) p_j)."""
    adjusted, largest = dict.fromkeys(p_values, 0.0), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        adjusted[name] = largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
    return adjusted


@dataclass(frozen=True)
class Expected:
    """What a run of a given size can show, before it is made."""

    half_width: float  # of the 95% interval
    detectable: float  # the least true difference of two runs on the same prompts that p < 0.05 finds in 80% of cases


def expected(
    sizes: Mapping[str, int], images: int, weights: Weights = "equal", *, spread: float = 0.5, alike: float = 1.0, shared: float = 0.0
) -> Expected:
    """For groups of so many prompts with `images` pictures each.

    `spread`: standard deviation of one picture's value, sqrt(p (1 - p)) for right and wrong. `alike`: correlation of a prompt's pictures.
    `shared`: correlation of the two runs' prompts. The defaults are the widest for values in [0, 1].
    """
    variance = spread**2 * (1 + (images - 1) * alike) / images
    stderr = math.sqrt(sum(share**2 * variance / sizes[group] for group, share in shares(sizes, weights).items()))
    return Expected(Z * stderr, (Z + Z_POWER) * stderr * math.sqrt(2 * (1 - shared)))


def shares(sizes: Mapping[str, int], weights: Weights) -> dict[str, float]:
    """The part of each group, of so many prompts, in the overall number: 1 in sum."""
    parts = group_weights(list(sizes), weights) or sizes
    return {group: part / sum(parts.values()) for group, part in parts.items()}


def wilson(p: float, n: float) -> tuple[float, float]:
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), cut to [0, 1]."""
    centre = p + Z**2 / (2 * n)
    spread = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + Z**2 / n) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _p_value(draws: np.ndarray, differ: int) -> float:
    tie = _TIE * max(1.0, float(np.abs(draws).max()))
    sides = [(1 + int(side.sum())) / (1 + len(draws)) for side in (draws <= tie, draws >= -tie)]
    return min(1.0, max(2 * min(sides), 2.0 ** (1 - differ)))
