"""Whether what a benchmark's file says fits together: groups and parts, metrics and weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from metabridge.bridge.errors import UserError, unknown

if TYPE_CHECKING:
    from metabridge.eval.benchmarks import Metric, Part, Published

WEIGHTS = ("equal", "prompts")


def check_groups(groups: Mapping[str, str], parts: Mapping[str, Part], where: str) -> None:
    places = Counter(group for part in parts.values() for group in part.groups)
    if wrong := next((group for group in (*groups, *places) if not is_folder(group) or group == "overall"), None):
        raise UserError(f"{where}.groups: {wrong!r} is no name for a group; it names a folder of pictures and a row beside `overall`")
    for name, part in parts.items():
        at = f"{where}.parts.{name}"
        if not part.groups and len(parts) > 1:
            raise UserError(f"{at}.groups: none named; of several parts, each names its own")
        for key, given in (("groups", part.groups if groups else ()), ("chance", part.chance)):
            known = list(groups) if key == "groups" else list(part.groups)
            if wrong := next((group for group in given if known and group not in known), None):
                raise UserError(f"{at}.{key}: {unknown(wrong, known, 'group')}")
    if twice := next((group for group, number in places.items() if number > 1), None):
        raise UserError(f"{where}.parts: group {twice} is there {places[twice]} times; name it once, in one part")
    if places and (lost := next((group for group in groups if group not in places), None)):
        raise UserError(f"{where}.parts: group {lost} is in none; name it in one part")


def check_metrics(metrics: Sequence[Metric], published: Sequence[Published], groups: Sequence[str], where: str) -> None:
    if not metrics:
        raise UserError(f"{where}.metrics: none given; it has one at least, and the first is the headline")
    names = [metric.name for metric in metrics]
    for i, metric in enumerate(metrics):
        at = f"{where}.metrics.{i}"
        if metric.name in names[:i]:
            raise UserError(f"{at}.name: {metric.name!r} is there a second time; give each metric its own name")
        if metric.high is not None and metric.high <= metric.low:
            raise UserError(f"{at}.high: {metric.high:g} given; it is above low, {metric.low:g}")
        _check_weights(metric.weights, groups, f"{at}.weights")
    for i, row in enumerate(published):
        if row.metric not in names:
            raise UserError(f"{where}.published.{i}.metric: {unknown(row.metric, names, 'metric')}")


def _check_weights(weights: str | Mapping[str, float], groups: Sequence[str], where: str) -> None:
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise UserError(f"{where}: {unknown(weights, WEIGHTS, 'value')}")
        return
    if groups and (wrong := next((group for group in weights if group not in groups), None)):
        raise UserError(f"{where}: {unknown(wrong, groups, 'group')}")
    if lacking := [group for group in groups if group not in weights]:
        raise UserError(f"{where}: none for {', '.join(lacking)}; give one for each group")
    if negative := next((group for group, weight in weights.items() if weight < 0), None):
        raise UserError(f"{where}.{negative}: {weights[negative]:g} given; it is 0 at least")
    if abs((total := sum(weights.values())) - 1) > 1e-6:
        raise UserError(f"{where}: {total:g} in sum; it is 1")


def is_folder(group: str) -> bool:
    """Whether a group's pictures can lie in a folder of its name."""
    return group.isprintable() and bool(group) and not group.startswith(".") and not set(group) & set("/\\")
