"""From scored pictures to numbers with intervals: `result.json`. The same pictures give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metabridge.eval import benchmarks, stats, store
from metabridge.eval.generate import INFRA_ERROR, MODEL_ERROR, OK
from metabridge.eval.plan import Plan
from metabridge.eval.score import Scored

Cell = dict[str, Any]  # value, low, high, stderr, n, prompts; chance where known; unscored where pictures are missing (value None)
Group = dict[str, Cell]  # overall, then a cell a tag or kind
BASELINE = "hand_text_encoder"


def summarize(plan: Plan, scored: Sequence[Scored]) -> dict[str, Any]:
    """Scores on what training may have shown; the same for held-out pairings below `held_out`."""
    chance = benchmarks.load(plan.benchmark["name"]).chance
    seen, held_out = ([s for s in scored if s.sample.item.held_out == flag] for flag in (False, True))
    states = [s.state for s in scored]
    return {
        **_tables(seen, chance),
        "held_out": _tables(held_out, chance),
        "pictures": {state: states.count(state) for state in (OK, MODEL_ERROR, INFRA_ERROR)},
        "identity": plan.identity,
    }


def write(result: dict[str, Any], folder: Path) -> None:
    store.write_json(folder / "result.json", result)


def _tables(scored: Sequence[Scored], chance: Callable[[str], float | None]) -> dict[str, Any]:
    def rows(row: str, part: str) -> list[Scored]:
        return [s for s in scored if s.sample.row == row and s.sample.item.part == part]

    composition, implicit, think, native = (
        rows(*name) for name in (("bridge", "composition"), ("bridge", "reasoning"), ("think", "reasoning"), ("native", "composition"))
    )
    return {
        "scores": {
            "composition": group(composition, chance),
            "reasoning": {"implicit": group(implicit, chance), "think": group(think, chance)},
        },
        "baselines": {BASELINE: {"composition": group(native)}} if native else {},
        "differences": {
            "think - implicit": {"reasoning": differences(think, implicit)},
            **({f"bridge - {BASELINE}": {"composition": differences(composition, native)}} if native else {}),
        },
        "thoughts": group(think, right=_thought_is_right),  # share of thoughts that are the canonical rewrite, word for word
    }


def _thought_is_right(scored: Scored) -> bool:
    return (scored.thought or "").strip() == scored.sample.item.rewrite


def group(
    scored: Sequence[Scored],
    chance: Callable[[str], float | None] = lambda kind: None,
    right: Callable[[Scored], bool] = lambda scored: scored.correct,
) -> Group:
    """A cell a kind, and their mean."""
    strata = _strata(scored, right)
    if not strata:
        return {}
    guesses = {kind: chance(kind) for kind in strata}
    unscored = {kind: sum(s.state == INFRA_ERROR for s in scored if s.sample.item.kind == kind) for kind in strata}
    cells = {kind: _cell([prompts], unscored[kind], guesses[kind]) for kind, prompts in strata.items()}
    known = [guess for guess in guesses.values() if guess is not None]
    overall = _cell(list(strata.values()), sum(unscored.values()), sum(known) / len(known) if len(known) == len(strata) else None)
    return {"overall": overall, **cells}


def differences(first: Sequence[Scored], second: Sequence[Scored]) -> Group:
    """first - second, picture by picture."""
    if not first:
        return {}
    a, b = _strata(first, lambda s: s.correct), _strata(second, lambda s: s.correct)
    missing = {kind: sum(s.state == INFRA_ERROR for s in (*first, *second) if s.sample.item.kind == kind) for kind in a}
    cells = {kind: _difference([a[kind]], [b[kind]], missing[kind]) for kind in a}
    return {"overall": _difference(list(a.values()), list(b.values()), sum(missing.values())), **cells}


def _strata(scored: Sequence[Scored], right: Callable[[Scored], bool]) -> dict[str, list[list[float]]]:
    """kind -> prompts -> 1 or 0 a picture."""
    strata: dict[str, dict[str, list[float]]] = {}
    for s in scored:
        strata.setdefault(s.sample.item.kind, {}).setdefault(s.sample.item.id, []).append(float(right(s)))
    return {kind: list(prompts.values()) for kind, prompts in strata.items()}


def _cell(strata: stats.Strata, unscored: int, chance: float | None) -> Cell:
    cell = _numbers(stats.proportion(strata), unscored)
    return cell if chance is None else {**cell, "chance": round(chance, 6)}


def _difference(first: stats.Strata, second: stats.Strata, unscored: int) -> Cell:
    return _numbers(stats.paired(first, second), unscored)


def _numbers(estimate: stats.Estimate, unscored: int) -> Cell:
    counts = {"n": estimate.n, "prompts": estimate.prompts}
    if unscored:
        return {"value": None, "low": None, "high": None, "stderr": None, **counts, "unscored": unscored}
    stderr = None if estimate.stderr is None else round(estimate.stderr, 6)
    return {"value": round(estimate.value, 6), "low": round(estimate.low, 6), "high": round(estimate.high, 6), "stderr": stderr, **counts}
