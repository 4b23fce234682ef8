"""Our scores beside the official scorer's on the same pictures: how often they agree, beyond chance, and where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metabridge.bridge.errors import UserError
from metabridge.eval import stats
from metabridge.eval.benchmarks import Metric
from metabridge.eval.score import Scored
from metabridge.eval.sheet import value_of
from metabridge.eval.sums import Picture, Weights

Key = tuple[str, str, int]  # group, prompt, which of its pictures
Said = Mapping[Key, tuple[float, str]]  # value and reason
SAME = 1e-6  # values that are closer agree
STEPS = 11  # a scale of at most so many values has a confusion table
COLUMNS = ("group", "pictures", "agree", "kappa", "correlation", "mean |difference|", "ours", "official", "ours - official")


@dataclass(frozen=True)
class Agreement:
    pictures: int
    agree: float  # share of pictures that both give the same value
    kappa: float | None  # Cohen's, of right and wrong; None for scales, and where both sides always say the same
    correlation: float | None  # Pearson's, of scales; None for right and wrong, and where one side always says the same
    difference: float  # mean absolute difference
    ours: stats.Estimate
    official: stats.Estimate
    gap: stats.Estimate  # ours - official, paired


@dataclass(frozen=True)
class Parity:
    overall: Agreement
    groups: Mapping[str, Agreement]
    confusion: Mapping[tuple[float, float], int]  # (ours, official) -> pictures; empty where a scale has many values
    disagreements: tuple[Key, ...]  # the furthest apart first
    ours_only: int  # pictures that the official results lack
    official_only: int


def ours_of(scored: Sequence[Scored], metric: Metric) -> dict[Key, tuple[float, str]]:
    """What our scorer says of the pictures drawn from the prompt alone."""
    rows = ((s, value_of(s.values, metric)) for s in scored if s.sample.row == "bridge")
    return {(s.sample.item.group, s.sample.item.id, s.sample.k): (value, s.reason) for s, value in rows if value is not None}


def official_of(results: Sequence[tuple[Key, Mapping[str, float], str]], metric: Metric, file: str) -> dict[Key, tuple[float, str]]:
    """What the official scorer says of each picture."""
    there = dict.fromkeys(name for _, values, _ in results for name in values)
    wanted = [metric.source, *([f"{metric.source}.of"] if metric.within == "ratio" else [])]
    if lacking := [name for name in wanted if name not in there]:
        known = ", ".join(there) or "nothing"
        raise UserError(f"{file}: no {' nor '.join(lacking)} in it, by which pictures are held against each other; it has {known}")
    rows = ((key, value_of(values, metric), reason) for key, values, reason in results)
    return {key: (value, reason) for key, value, reason in rows if value is not None}


def refuse_of_set(metric: Metric) -> None:
    if metric.within == "set":
        raise UserError(f"parity: {metric.title or metric.name} is of all pictures together; there is nothing to hold against each other")


def parity(ours: Mapping[Key, float], official: Mapping[Key, float], weights: Weights = "equal") -> Parity:
    """Over the pictures that both have scored; `weights` of the groups as the benchmark has them."""
    shared = [key for key in ours if key in official]
    if not shared:
        first, second = next(iter(ours), "none"), next(iter(official), "none")
        raise UserError(
            f"no picture is scored on both sides: ours has {first}, the official results {second}; give results of the same pictures"
        )
    pairs = {key: (float(ours[key]), float(official[key])) for key in shared}
    binary = {value for pair in pairs.values() for value in pair} <= {0.0, 1.0}
    groups = dict.fromkeys(key[0] for key in shared)
    steps = {value for pair in pairs.values() for value in pair}
    apart = sorted((key for key in shared if not _same(pairs[key])), key=lambda key: -abs(pairs[key][0] - pairs[key][1]))
    return Parity(
        overall=_agreement(pairs, weights, binary),
        groups={group: _agreement({key: pair for key, pair in pairs.items() if key[0] == group}, "equal", binary) for group in groups},
        confusion=dict(sorted(Counter(pairs.values()).items())) if len(steps) <= STEPS else {},
        disagreements=tuple(apart),
        ours_only=len(ours) - len(shared),
        official_only=len(official) - len(shared),
    )


def _same(pair: tuple[float, float]) -> bool:
    return abs(pair[0] - pair[1]) <= SAME


def _agreement(pairs: Mapping[Key, tuple[float, float]], weights: Weights, binary: bool) -> Agreement:
    a, b = np.array(list(pairs.values())).T
    first, second = (_clusters({key: pair[side] for key, pair in pairs.items()}) for side in (0, 1))
    low, high = (0.0, 1.0) if binary else (None, None)
    return Agreement(
        pictures=len(pairs),
        agree=float(np.mean([_same(pair) for pair in pairs.values()])),
        kappa=kappa(a, b) if binary else None,
        correlation=None if binary else correlation(a, b),
        difference=float(np.abs(a - b).mean()),
        ours=stats.estimate(first, weights, low=low, high=high),
        official=stats.estimate(second, weights, low=low, high=high),
        gap=stats.paired_estimate(first, second, weights),
    )


def _clusters(values: Mapping[Key, float]) -> dict[str, dict[str, list[Picture]]]:
    clusters: dict[str, dict[str, list[Picture]]] = {}
    for (group, prompt, _), value in values.items():
        clusters.setdefault(group, {}).setdefault(prompt, []).append((value, 1.0))
    return clusters


def kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """(p_o - p_e) / (1 - p_e): agreement beyond what two independent judges with the same shares of 1 would have by chance."""
    observed, chance = float((a == b).mean()), float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean()))
    return None if chance == 1 else (observed - chance) / (1 - chance)


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


def rows(found: Parity) -> list[tuple[str, ...]]:
    """A row a group under COLUMNS, the overall one first."""
    return [_row("overall", found.overall), *(_row(group, agreement) for group, agreement in found.groups.items())]


def _row(name: str, one: Agreement) -> tuple[str, ...]:
    beyond = ("" if value is None else f"{value:.3f}" for value in (one.kappa, one.correlation))
    gap = f"{one.gap.value:+.3f} [{one.gap.low:+.3f}, {one.gap.high:+.3f}]"
    ends = (f"{one.ours.value:.3f}", f"{one.official.value:.3f}", gap)
    return (name, str(one.pictures), f"{one.agree:.1%}", *beyond, f"{one.difference:.3f}", *ends)


def lines(found: Parity, ours: Said, official: Said, most: int = 20) -> list[str]:
    """For a terminal: the table, the confusion, and the first disagreements with what each side says."""
    said = _aligned([COLUMNS, *rows(found)])
    if found.confusion:
        said += ["", "ours / official: pictures", *(f"{a:g} / {b:g}: {count}" for (a, b), count in found.confusion.items())]
    if found.ours_only or found.official_only:
        said += ["", f"left out: {found.ours_only} pictures that the official results lack, {found.official_only} that ours lack"]
    if found.disagreements:
        said += ["", f"{len(found.disagreements)} disagreements" + (f", the first {most}" if len(found.disagreements) > most else "") + ":"]
    for group, prompt, k in found.disagreements[:most]:
        (a, why), (b, why_official) = ours[group, prompt, k], official[group, prompt, k]
        said.append(f"{group}/{prompt}-{k}: ours {a:g} ({why or 'no reason given'}), official {b:g} ({why_official or 'no reason given'})")
    return said


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
