"""Two evaluations on the pictures that both have: paired differences, with Holm's correction over the family of headlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import plan as plans
from metabridge.eval import result as results
from metabridge.eval import stats
from metabridge.eval.benchmarks import ROWS, Metric
from metabridge.eval.plan import Plan
from metabridge.eval.result import Group, differences, group
from metabridge.eval.score import Scored, read, tag
from metabridge.eval.tables import Table, comparison


@dataclass(frozen=True)
class Side:
    """One evaluation folder."""

    folder: Path
    plan: Plan
    result: Mapping[str, Any]
    scored: Sequence[Scored]

    @property
    def name(self) -> str:
        return str(self.folder)


def load(folder: Path) -> Side:
    plan = plans.load(folder)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder}: no result.json there; finish it with `metabridge eval score {folder}`")
    result = results.read(folder / "result.json")
    return Side(folder, plan, result, read(plan, folder, tag(result["identity"]["scoring"])))


def refuse_unlike(a: Side, b: Side) -> None:
    """Only numbers of the same variant, on the same prompts and seeds, stand beside each other."""
    one, other = a.plan.benchmark, b.plan.benchmark
    if one["name"] != other["name"] or (one["seeds"], one["base_seed"]) != (other["seeds"], other["base_seed"]):
        raise UserError(f"{a.name} and {b.name} hold different benchmarks; compare two evaluations of the same one")
    if one["version"] != other["version"]:
        raise UserError(f"{a.name} holds {one['name']} version {one['version']}, {b.name} version {other['version']}; score them alike")
    if a.result["variant"] != b.result["variant"]:
        raise UserError(
            f"{a.name} is {a.result['variant']}, {b.name} is {b.result['variant']}: two variants of a score do not compare; "
            "score one of them again, by `metabridge eval score DIR --judge ...`"
        )
    first, second = (side.result["identity"]["scoring"].get("definition") for side in (a, b))
    if first != second:
        raise UserError(
            f"{a.name} and {b.name} are scored by two files of {one['name']} whose options, metrics or groups "
            "differ; score them by the same one"
        )


@dataclass(frozen=True)
class Family:
    """One difference of the headline: a part, drawn in one way."""

    title: str
    groups: tuple[Group, Group]
    gap: Group
    metric: Metric


def families(a: Side, b: Side) -> list[Family]:
    benchmark = a.plan.definition
    first, second = ({s.sample.key: s for s in side.scored if not s.sample.item.held_out} for side in (a, b))
    shared = [(one, second[key]) for key, one in first.items() if key in second and one.sample.item == second[key].sample.item]
    if not shared:
        raise UserError(f"{a.name} and {b.name} share no picture: same row, prompt and number; nothing can be compared")
    found = []
    for spec in benchmark.parts.values():
        for row in ROWS:
            pairs = [(x, y) for x, y in shared if x.sample.row == row and spec.holds(x.sample.item.group)]
            for metric in benchmark.metrics if pairs else ():
                if metric.within != "set":
                    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
                    words = [
                        spec.title or benchmark.title,
                        ROWS[row],
                        *([metric.title or metric.name] if len(benchmark.metrics) > 1 else []),
                    ]
                    sides = group(xs, metric, benchmark, {}), group(ys, metric, benchmark, {})
                    if all(sides):  # not every metric is of every part
                        found.append(Family(": ".join(words), sides, differences(xs, ys, metric, benchmark), metric))
    return found


def tables(a: Side, b: Side) -> tuple[list[Table], list[str]]:
    """The tables, and a line on each headline: the difference and its p, corrected over all of them."""
    refuse_unlike(a, b)
    found = families(a, b)
    made = [comparison(f.title, (a.name, b.name), f.groups, f.gap, a.plan.definition, f.metric) for f in found]
    return made, verdicts([(f.title, f.gap.get("overall", {}), f.metric) for f in found], "the two")


def verdicts(gaps: Sequence[tuple[str, Mapping[str, Any], Metric]], between: str) -> list[str]:
    known = [(title, cell, metric) for title, cell, metric in gaps if cell.get("value") is not None]
    corrected = stats.holm({str(place): cell["p"] for place, (_, cell, _) in enumerate(known)})
    lines = []
    for (title, cell, metric), p in zip(known, corrected.values(), strict=True):
        said = f"no difference between {between} is shown" if p > 0.05 else "a difference"
        interval = f"{cell['value']:+.{metric.digits}f} [{cell['low']:+.{metric.digits}f}, {cell['high']:+.{metric.digits}f}]"
        lines.append(f"{title}: {interval}, p = {p:.4f} after Holm over {len(known)}: {said}")
    return lines


def across(a: Side, b: Side, name: str) -> tuple[str, dict[str, Any], Metric]:
    """The headline of two benchmarks on prompts of the same ids (raw and rewritten), paired: first - second.

    Drawn from the prompt alone, or where neither was, in the first way that both were.
    """
    metric = a.plan.definition.metrics[0]
    if metric != b.plan.definition.metrics[0] or set(a.plan.definition.parts) != set(b.plan.definition.parts):
        raise UserError(f"{name}: {a.plan.definition.name} and {b.plan.definition.name} are not measured alike; nothing can be subtracted")
    by_a, by_b = (side.result["identity"]["scoring"]["variant"] for side in (a, b))
    if by_a != by_b:
        raise UserError(f"{name}: {a.name} is scored by {by_a}, {b.name} by {by_b}; score one of them again, by the other's judge")
    row = next((row for row in ROWS if row in a.plan.rows and row in b.plan.rows), None)
    if row is None:
        raise UserError(f"{name}: {a.name} and {b.name} are drawn in no way that both have; nothing can be subtracted")

    def by_place(side: Side) -> dict[tuple[str, str, int], Scored]:
        return {(s.sample.item.group, s.sample.item.id, s.sample.k): s for s in side.scored if s.sample.row == row}

    first, second = by_place(a), by_place(b)
    shared = [key for key in first if key in second]
    if not shared:
        raise UserError(f"{name}: {a.name} and {b.name} share no prompt; nothing can be subtracted")
    gap = differences([first[key] for key in shared], [second[key] for key in shared], metric, a.plan.definition)
    return name if row == "bridge" else f"{name} ({ROWS[row]})", gap.get("overall", {}), metric
