"""From scored pictures to numbers with intervals: `result.json`. The same pictures give the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import stats, store
from metabridge.eval.benchmarks import Benchmark, Metric
from metabridge.eval.columns import columns, gaps, put
from metabridge.eval.definition import own_file
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK, Services
from metabridge.eval.plan import Plan
from metabridge.eval.score import Scored
from metabridge.eval.sums import Picture

SCHEMA = 2
Cell = dict[
    str, Any
]  # value, low, high, stderr, n, prompts; chance where known; unscored and bounds where pictures are missing (value None)
Group = dict[str, Cell]  # overall, then a cell a group


def summarize(
    plan: Plan, scored: Sequence[Scored], scoring: Mapping[str, Any], services: Services, judged: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores on what training may have shown; the same for held-out items below `held_out`.

    `scoring` is the scorer's identity, `judged` what is to be known of its judge (calls that had to be repeated, the canary set).
    """
    seen, held_out = ([s for s in scored if s.sample.item.held_out == flag] for flag in (False, True))
    states = [s.state for s in scored]
    benchmark = plan.definition
    return {
        "schema": SCHEMA,
        "variant": variant(benchmark, scoring, seen),
        **_tables(plan, seen, services),
        **({"held_out": _tables(plan, held_out, services)} if held_out else {}),
        "pictures": {state: states.count(state) for state in (OK, MODEL_ERROR, INFRA_ERROR)},
        **({"failed": failed} if (failed := Counter(s.reason for s in scored if s.state == MODEL_ERROR)) else {}),
        **({"judged": dict(judged)} if judged else {}),
        "identity": {**plan.identity, "scoring": dict(scoring)},
    }


def variant(benchmark: Benchmark, scoring: Mapping[str, Any], scored: Sequence[Scored]) -> str:
    """The name under which numbers may be compared: geneval/m2f-hf, wise_verified/Qwen3.5-35B-A3B.

    A number of a whole set is biased by the set's size, which is part of its name; so is a file of one's own that bears a shipped name.
    """
    size = max(Counter(s.sample.row for s in scored).values(), default=0)
    number = f"N={size}" if any(m.within == "set" for m in benchmark.metrics) else ""
    return f"{benchmark.name}/{' '.join(word for word in (scoring['variant'], own_file(benchmark), number) if word)}"


def write(result: dict[str, Any], folder: Path) -> None:
    store.write_json(folder / "result.json", result)


_KINDS: store.Kinds = {"schema": int, "variant": str, "scores": dict, "pictures": dict, "identity": dict}


def read(path: Path) -> dict[str, Any]:
    """A result.json of this version."""
    tree: dict[str, Any] = store.read_json(path)
    odd = store.odd_in(tree, _KINDS)
    if not odd and tree["schema"] != SCHEMA:
        odd = f"its schema is {tree['schema']}, this version's is {SCHEMA}"
    elif not odd and (inside := store.odd_in(tree["identity"], {"scoring": dict, "benchmark": dict, "model": dict, "generation": dict})):
        odd = f"its identity: {inside}"
    if odd:
        raise UserError(f"{path}: no result that can be read: {odd}; remove it and score again with `metabridge eval score {path.parent}`")
    return tree


def _tables(plan: Plan, scored: Sequence[Scored], services: Services) -> dict[str, Any]:
    benchmark, rows = plan.definition, plan.identity["generation"]["rows"]
    tree: dict[str, Any] = {"scores": {}, "baselines": {}, "differences": {}}
    of: dict[tuple[str, str], list[Scored]] = {}
    for s in scored:
        of.setdefault((s.sample.row, benchmark.part_of(s.sample.item.group)), []).append(s)
    for column in columns(benchmark, rows):
        chance = benchmark.parts[column.part].chance if column.row != "native" else {}
        put(tree, column.path, group(of.get((column.row, column.part), []), column.metric, benchmark, chance, services))
    for gap in gaps(benchmark, rows):
        first, second = (of.get((column.row, column.part), []) for column in (gap.first, gap.second))
        put(tree, gap.path, differences(first, second, gap.first.metric, benchmark))
    thoughts = [s for s in scored if s.sample.row == "think" and "rewrite" in s.sample.item.want]
    if thoughts:  # share of thoughts that are the canonical rewrite, word for word
        tree["thoughts"] = group(thoughts, Metric("thought"), benchmark, {}, services, _thought)
    if benchmark.facets:
        tree["facets"] = {row: _facets([s for s in scored if s.sample.row == row]) for row in rows}
    return tree


def _thought(s: Scored) -> dict[str, float] | None:
    """1 for the canonical rewrite; None where nothing was thought yet."""
    return {"thought": float((s.thought or "").strip() == s.sample.item.want["rewrite"])} if s.state != INFRA_ERROR else None


Values = Callable[[Scored], Mapping[str, float] | None]


def group(
    scored: Sequence[Scored],
    metric: Metric,
    benchmark: Benchmark,
    chance: Mapping[str, float],
    services: Services | None = None,
    values: Values | None = None,
) -> Group:
    """A cell a group, and their weighted mean."""
    if not scored:
        return {}
    if metric.within == "set":
        return {"overall": _of_set(scored, metric, benchmark, services)}
    clusters = _clusters(scored, metric, values or (lambda s: values_of(s, metric, benchmark)))
    empty = [name for name, prompts in clusters.items() if _counts_nothing(prompts)]
    without = [name for name in _weighed(clusters, metric) if name in empty]
    clusters = {name: prompts for name, prompts in clusters.items() if name not in empty}
    if not (weighed := _weighed(clusters, metric)):
        return {}
    mean_chance = _mean_chance(weighed, metric, chance) if set(weighed) <= set(chance) else None
    cells = {name: _cell({name: prompts}, metric, chance.get(name)) for name, prompts in clusters.items()}
    overall = _cell(weighed, metric, mean_chance)
    return {"overall": {**overall, "without": without} if without else overall, **cells}


def _weighed(clusters: Clusters, metric: Metric) -> Clusters:
    """Without groups of weight 0: the overall number is not of their pictures, scored or not."""
    weights = metric.weights
    return {name: prompts for name, prompts in clusters.items() if isinstance(weights, str) or weights.get(name) != 0}


def _mean_chance(clusters: Clusters, metric: Metric, chance: Mapping[str, float]) -> float:
    """Weighted as the groups are in the overall number."""
    sizes = {name: len(prompts) for name, prompts in clusters.items()}
    return sum(share * chance[name] for name, share in stats.shares(sizes, _how(clusters, metric)["weights"]).items())


def _counts_nothing(prompts: Mapping[str, Sequence[Picture]]) -> bool:
    """Whether a ratio has nothing below its line: no item of a subset, no answer that an official parser takes."""
    return all(picture is not None and not picture[1] for pictures in prompts.values() for picture in pictures)


def values_of(s: Scored, metric: Metric, benchmark: Benchmark) -> Mapping[str, float] | None:
    """A picture's values; the worst ones where the model failed; None where it is not scored."""
    if s.state == OK:
        return s.values if metric.source in s.values else None
    if s.state == INFRA_ERROR:
        return None
    module = benchmark.scorer_module()
    if hasattr(module, "worst"):
        worst: Mapping[str, float] = module.worst(benchmark.scorer_options, s.sample.item)
        return worst if metric.source in worst else None
    return None if metric.worst is None else {metric.source: metric.worst, f"{metric.source}.of": 1.0}


Clusters = dict[str, dict[str, list[Picture]]]


def _clusters(scored: Sequence[Scored], metric: Metric, values: Values) -> Clusters:
    """group -> prompt -> pictures."""
    clusters: Clusters = {}
    for s in scored:
        known, of = values(s), f"{metric.source}.of"
        if metric.within == "ratio" and known is not None and of not in known:
            raise UserError(f"{s.sample.key}: scored with {metric.source} and without {of}, which a ratio is divided by; score it anew")
        picture = None if known is None else (float(known[metric.source]), float(known[of]) if metric.within == "ratio" else 1.0)
        clusters.setdefault(s.sample.item.group, {}).setdefault(s.sample.item.id, []).append(picture)
    return clusters


def _how(clusters: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """The weights of a group alone do not matter."""
    return {"weights": metric.weights if len(clusters) > 1 else "equal", "within": metric.within, "better": metric.better}


def _cell(clusters: Clusters, metric: Metric, chance: float | None) -> Cell:
    more = {} if chance is None else {"chance": round(chance, 6)}
    how = {**_how(clusters, metric), "low": metric.low, "high": metric.high}
    if unscored := _unscored(clusters):
        try:
            ends = stats.bounds(clusters, **how)
        except UserError:  # a group of a ratio whose scored pictures have nothing to count
            ends = (None, None)
        least, most = (None if end is None else round(end, 6) for end in ends)
        return {**_UNKNOWN, **_counts(clusters), "unscored": unscored, "bounds": {"least": least, "most": most}, **more}
    return {**_numbers(stats.estimate(clusters, **how)), **more}


_UNKNOWN = {"value": None, "low": None, "high": None, "stderr": None}


def _counts(clusters: Clusters) -> dict[str, int]:
    pictures = sum(len(pictures) for prompts in clusters.values() for pictures in prompts.values())
    return {"n": pictures, "prompts": sum(map(len, clusters.values()))}


def _unscored(*sides: Clusters) -> int:
    return sum(picture is None for side in sides for prompts in side.values() for pictures in prompts.values() for picture in pictures)


def differences(first: Sequence[Scored], second: Sequence[Scored], metric: Metric, benchmark: Benchmark) -> Group:
    """first - second, picture by picture, each with the two-sided p of no difference."""
    if not first or not second:
        return {}
    a, b = (_clusters(scored, metric, lambda s: values_of(s, metric, benchmark)) for scored in (first, second))
    empty = [name for name in a if _counts_nothing(a[name]) or _counts_nothing(b[name])]
    a, b = ({name: prompts for name, prompts in side.items() if name not in empty} for side in (a, b))
    if not (weighed := _weighed(a, metric)):
        return {}
    return {
        "overall": _difference(weighed, {name: b[name] for name in weighed}, metric),
        **{name: _difference({name: a[name]}, {name: b[name]}, metric) for name in a},
    }


def _difference(a: Clusters, b: Clusters, metric: Metric) -> Cell:
    if unscored := _unscored(a, b):
        return {**_UNKNOWN, **_counts(a), "unscored": unscored}
    alike = {name: [p for p in a[name] if _counted(a[name][p]) and p in b[name] and _counted(b[name][p])] for name in a}
    if not all(alike.values()):
        return {**_UNKNOWN, **_counts(a), "unscored": 0}
    a, b = ({name: {p: side[name][p] for p in alike[name]} for name in side} for side in (a, b))
    estimate = stats.paired_estimate(a, b, **_how(a, metric))
    return {**_numbers(estimate), "p": round(estimate.p or 0.0, 6)}


def _counted(pictures: Sequence[Picture]) -> bool:
    return any(picture is not None and picture[1] for picture in pictures)


def _numbers(estimate: stats.Estimate) -> Cell:
    stderr = None if estimate.stderr is None else round(estimate.stderr, 6)
    ends = {"value": round(estimate.value, 6), "low": round(estimate.low, 6), "high": round(estimate.high, 6)}
    return {**ends, "stderr": stderr, "n": estimate.n, "prompts": estimate.prompts}


def _facets(scored: Sequence[Scored]) -> Group:
    """A cell a finer category: its points over all pictures by how many there were to get."""
    cells: Group = {}
    for name in dict.fromkeys(name for s in scored for name in s.facets):
        prompts: dict[str, list[Picture]] = {}
        for s in scored:
            if name in s.facets:
                prompts.setdefault(f"{s.sample.item.group}/{s.sample.item.id}", []).append(s.facets[name])
        if unscored := sum(s.state == INFRA_ERROR for s in scored):
            cells[name] = {**_UNKNOWN, **_counts({name: prompts}), "unscored": unscored}
        else:
            cells[name] = _numbers(stats.estimate({name: prompts}, within="ratio"))
    return cells


def _of_set(scored: Sequence[Scored], metric: Metric, benchmark: Benchmark, services: Services | None) -> Cell:
    from metabridge.eval.scorers import SetRow

    unscored = sum(s.state != OK for s in scored)
    if unscored or services is None:
        return {**_UNKNOWN, "n": len(scored), "prompts": len({s.sample.item.id for s in scored}), "unscored": unscored}
    rows = [SetRow(s.sample.item, s.features, s.values) for s in scored]
    cell: Cell = benchmark.scorer_module().aggregate(metric.source, rows, benchmark.scorer_options, services)
    return cell
