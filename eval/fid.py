"""Fréchet distance between two sets of features, each taken as a Gaussian, with an interval.

    d = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

With S1 = L L^T, the eigenvalues of S1 S2 are those of the symmetric L^T S2 L, so that nothing is inverted and no complex root is taken: it
holds for singular covariances, as those of fewer pictures than features.

The distance between two samples of one distribution is not 0: it is biased upwards by about 1/N. Compare at the same N alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metabridge.bridge.errors import UserError

BLOCKS = 20  # of prompts, each left out in turn for the interval


@dataclass(frozen=True)
class Gaussian:
    mean: np.ndarray  # [D] float64
    covariance: np.ndarray  # [D, D] float64

    @cached_property
    def root(self) -> np.ndarray:
        """L [D, rank] with L L^T = covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        known = values > len(values) * np.finfo(values.dtype).eps * values.max()  # what is smaller is rounding
        return np.asarray(vectors[:, known] * np.sqrt(values[known]))


def distance(a: Gaussian, b: Gaussian) -> float:
    """`a` is the one whose root is kept, so the reference where it is measured against several sets."""
    if a.mean.shape != b.mean.shape:
        raise UserError(f"fid: features of {len(b.mean)} numbers, the reference is of {len(a.mean)}; give one made by the same network")
    shift = a.mean - b.mean
    shared = np.linalg.eigvalsh(a.root.T @ b.covariance @ a.root)
    found = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(shared.clip(0)).sum()
    return max(float(found), 0.0)  # by rounding, where both are the same


@dataclass(frozen=True)
class Moments:
    """What a set of features adds up to; sets join and part without their features."""

    n: int
    mean: np.ndarray  # [D] float64
    scatter: np.ndarray  # [D, D] float64: sum of (x - mean) (x - mean)^T

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """[N, D]"""
        values = np.asarray(features, np.float64)
        mean = values.mean(axis=0)
        return cls(len(values), mean, (values - mean).T @ (values - mean))

    def __add__(self, other: Moments) -> Moments:
        n, shift = self.n + other.n, other.mean - self.mean
        between = np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), self.scatter + other.scatter + between)

    def __sub__(self, part: Moments) -> Moments:
        """What is left of a set without a part of it."""
        n = self.n - part.n
        mean = (self.n * self.mean - part.n * part.mean) / n
        shift = part.mean - mean
        return Moments(n, mean, self.scatter - part.scatter - np.outer(shift, shift) * (n * part.n / self.n))

    @property
    def gaussian(self) -> Gaussian:
        if self.n < 2:
            raise UserError(f"fid: {self.n} picture; a covariance needs 2 at least, and a number that means something 10,000")
        return Gaussian(self.mean, self.scatter / (self.n - 1))


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float | None  # 95%; None where there are too few blocks
    high: float | None
    stderr: float | None
    n: int


def estimate(blocks: Sequence[Callable[[], np.ndarray]], reference: Gaussian) -> Estimate:
    """The distance of all features [N, D] of the blocks, and value +- t stderr by a jackknife that leaves out one block at a time.

    The interval is of other prompts and pictures of the same model, at this N and against this reference. It does not hold the bias at
    small N, nor what another reference would change. Features are asked for twice and not kept.
    """
    parts = (Moments.of(block()) for block in blocks)
    whole = next(parts)
    for part in parts:
        whole += part
    value = distance(reference, whole.gaussian)
    if len(blocks) < 2 or whole.n - max(len(block()) for block in blocks) < 2:
        return Estimate(value, None, None, None, whole.n)
    left = np.array([distance(reference, (whole - Moments.of(block())).gaussian) for block in blocks])
    stderr = float(np.sqrt((len(blocks) - 1) * left.var()))  # (G-1)/G sum of squares
    reach = _t(len(blocks) - 1) * stderr
    return Estimate(value, max(value - reach, 0.0), value + reach, stderr, whole.n)


def _t(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
