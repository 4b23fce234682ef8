"""What prompts add to an aggregate of groups, and what the aggregate is when they are drawn anew.

A prompt adds `num` points of `den` to its group: its mean or its best picture of 1, or its own sums. So every aggregate is one of ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metabridge.bridge.errors import UserError

CELLS = 2**22  # prompts drawn at a time: tens of thousands of prompts must not fill the memory

Picture = tuple[float, float] | None  # points, and of how many (1 unless it is a ratio); None: not scored
Prompts = Mapping[str, Sequence[Picture]]  # prompt -> its pictures
Weights = str | Mapping[str, float]  # of the groups: equal | prompts (every prompt counts alike) | group -> weight, 1 in sum
Added = tuple[float, float, int]  # what a prompt adds: points, of how many, from how many pictures


@dataclass(frozen=True)
class Sums:
    num: list[np.ndarray]  # a group each: [prompts]
    den: list[np.ndarray]
    weights: list[float] | None  # a group each; None: all prompts in one ratio
    pictures: int

    @property
    def prompts(self) -> int:
        return sum(map(len, self.num))


def group_weights(groups: Sequence[str], weights: Weights) -> dict[str, float] | None:
    """None where a group is to count by its prompts."""
    if weights == "prompts":
        return None
    if weights == "equal":
        return dict.fromkeys(groups, 1.0)
    if not isinstance(weights, Mapping):
        raise UserError(f"weights: {weights!r} given; they are equal, prompts, or one for each group")
    if without := [group for group in groups if group not in weights]:
        raise UserError(f"weights: none for {', '.join(without)}; give one for each group")
    if min(weights.values()) < 0 or abs(sum(weights.values()) - 1) > 1e-6:
        raise UserError(f"weights: {', '.join(f'{g} {w:g}' for g, w in weights.items())}; give none below 0, and 1 in sum")
    return {group: float(weights[group]) for group in groups}


def known(clusters: Mapping[str, Prompts], within: str, better: str) -> dict[str, dict[str, Added]]:
    """Without the prompts that have nothing to count."""
    added = {g: {prompt: _within(pictures, within, better) for prompt, pictures in prompts.items()} for g, prompts in clusters.items()}
    return {g: {prompt: sums for prompt, sums in prompts.items() if sums is not None} for g, prompts in added.items()}


def _within(pictures: Sequence[Picture], within: str, better: str) -> Added | None:
    scored = [picture for picture in pictures if picture is not None]
    if within == "ratio":
        of = float(sum(pair[1] for pair in scored))
        return (float(sum(pair[0] for pair in scored)), of, len(scored)) if of else None
    if not scored:
        return None
    values = [points / of for points, of in scored]
    best = max if better == "higher" else min
    return float(best(values) if within == "any" else np.mean(values)), 1.0, len(scored)


def sums_of(known: Mapping[str, Mapping[str, Added]], weights: Weights) -> Sums:
    if empty := next((group for group, prompts in known.items() if not prompts), None):
        raise UserError(f"{empty}: none of its pictures is scored, so there is no overall number; score them first")
    columns = [np.array(list(prompts.values())).T for prompts in known.values()]
    given = group_weights(list(known), weights)
    of_groups = None if given is None else list(given.values())
    pictures = sum(int(count.sum()) for _, _, count in columns)
    return Sums([num for num, _, _ in columns], [den for _, den, _ in columns], of_groups, pictures)


def difference(a: Sums, b: Sums) -> list[Sums]:
    """Aggregates whose sum is a - b: one of the prompts' own differences where both count out of the same, which rounds less."""
    if all(np.array_equal(da, db) for da, db in zip(a.den, b.den, strict=True)):
        return [Sums([na - nb for na, nb in zip(a.num, b.num, strict=True)], a.den, a.weights, a.pictures)]
    return [a, Sums([-num for num in b.num], b.den, b.weights, b.pictures)]


def _aggregate(num: Sequence[Any], den: Sequence[Any], weights: Sequence[float] | None) -> Any:
    """sum_g w_g num_g / den_g / sum_g w_g, or sum_g num_g / sum_g den_g: of one draw, or of an array of draws."""
    if weights is None:
        return sum(num) / sum(den)
    return sum(w * n / d for w, n, d in zip(weights, num, den, strict=True)) / sum(weights)


def value_of(sides: Sequence[Sums]) -> float:
    return float(sum(_aggregate([num.sum() for num in side.num], [den.sum() for den in side.den], side.weights) for side in sides))


def draw(sides: Sequence[Sums], resamples: int, seed: int = 0) -> np.ndarray:
    """[resamples]: the aggregate under prompts drawn with replacement inside each group, the same ones for all sides."""
    rng = np.random.default_rng(seed)
    sums = [([np.empty(resamples) for _ in side.num], [np.empty(resamples) for _ in side.num]) for side in sides]
    for group, prompts in enumerate(map(len, sides[0].num)):
        rows = max(1, CELLS // prompts)
        for start in range(0, resamples, rows):
            stop = min(start + rows, resamples)
            chosen = rng.integers(prompts, size=(stop - start, prompts))
            for side, (num, den) in zip(sides, sums, strict=True):
                num[group][start:stop] = side.num[group][chosen].sum(axis=1)
                den[group][start:stop] = side.den[group][chosen].sum(axis=1)
    return np.asarray(sum(_aggregate(num, den, side.weights) for side, (num, den) in zip(sides, sums, strict=True)))


def closed_form(sides: Sequence[Sums]) -> float | None:
    """Delta method: sqrt(sum_g n_g var_g(z)), z_i = what prompt i moves the aggregate by."""
    moved = [np.sum(parts, axis=0) for parts in zip(*map(_influence, sides), strict=True)]
    if min(map(len, moved)) < 2:
        return None
    return math.sqrt(sum(len(z) * z.var(ddof=1) for z in moved))


def _influence(sums: Sums) -> list[np.ndarray]:
    """w_g (num_i - R_g den_i) / den_g, where R_g = num_g / den_g, or the ratio of all where all prompts are in one."""
    own = [num.sum() / den.sum() for num, den in zip(sums.num, sums.den, strict=True)]
    ratios = own if sums.weights is not None else [value_of([sums])] * len(own)
    return [w * (n - ratio * d) / d.sum() for n, d, ratio, w in zip(sums.num, sums.den, ratios, _parts(sums), strict=True)]


def _parts(sums: Sums) -> list[float]:
    """The part of each group in the aggregate."""
    parts = sums.weights or [float(den.sum()) for den in sums.den]
    return [part / sum(parts) for part in parts]


def effective_prompts(sums: Sums) -> float:
    """1 / sum_i v_i^2, v_i = the part of prompt i in the aggregate: the number of prompts where all have the same."""
    return 1 / float(sum(((part * den / den.sum()) ** 2).sum() for part, den in zip(_parts(sums), sums.den, strict=True)))


def filled(prompts: Prompts, value: float) -> dict[str, list[Picture]]:
    """Every unscored picture with this value."""
    usual = [picture[1] for pictures in prompts.values() for picture in pictures if picture is not None] or [1.0]
    filled: dict[str, list[Picture]] = {}
    for prompt, pictures in prompts.items():
        of = float(np.mean([picture[1] for picture in pictures if picture is not None] or usual))
        filled[prompt] = [(value * of, of) if picture is None else picture for picture in pictures]
    return filled
