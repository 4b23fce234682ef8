"""Intervals over prompts. The pictures of one prompt are not independent, so the prompt is what is resampled (a cluster).

A stratum is a tag or a kind: a list of prompts, each a list of one number per picture. The value of several strata is the mean of
their values, and each is resampled on its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
Z = 1.959963984540054  # the standard normal's 0.975 quantile

Strata = Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float  # 95%, percentile bootstrap over prompts
    high: float
    stderr: float | None  # closed form, as a cross-check; None where a stratum has one prompt
    n: int  # pictures
    prompts: int


def proportion(strata: Strata) -> Estimate:
    """The share of right pictures. Where all prompts score alike, resampling shows no spread: Wilson's interval on prompts stands in."""
    estimate = mean(strata)
    if estimate.low == estimate.high:
        low, high = wilson(estimate.value, estimate.prompts)
        return Estimate(estimate.value, low, high, estimate.stderr, estimate.n, estimate.prompts)
    return estimate


def paired(first: Strata, second: Strata) -> Estimate:
    """The mean difference, first - second, over the same pictures."""
    return mean(
        [
            [[a - b for a, b in zip(*prompts, strict=True)] for prompts in zip(*stratum, strict=True)]
            for stratum in zip(first, second, strict=True)
        ]
    )


def mean(strata: Strata) -> Estimate:
    means = [np.array([np.mean(prompt) for prompt in stratum]) for stratum in strata]
    value = float(np.mean([m.mean() for m in means]))
    low, high = np.quantile(resample(means), (0.025, 0.975))
    pictures = sum(len(prompt) for stratum in strata for prompt in stratum)
    return Estimate(value, float(low), float(high), standard_error(means), pictures, sum(map(len, means)))


def resample(means: Sequence[np.ndarray], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """[resamples]: the value under prompts drawn with replacement inside each stratum."""
    rng = np.random.default_rng(seed)
    values = np.zeros(resamples)
    for stratum in means:
        chosen = rng.integers(len(stratum), size=(resamples, len(stratum)))
        values += stratum[chosen].mean(axis=1)
    return values / len(means)


def standard_error(means: Sequence[np.ndarray]) -> float | None:
    """sqrt(sum_s var_s / n_s) / S over S strata with n_s prompts each."""
    if min(map(len, means)) < 2:
        return None
    return math.sqrt(sum(m.var(ddof=1) / len(m) for m in means)) / len(means)


def wilson(p: float, n: int) -> tuple[float, float]:
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), cut to [0, 1]."""
    centre = p + Z**2 / (2 * n)
    spread = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + Z**2 / n) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)
