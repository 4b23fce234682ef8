"""RISEBench: up to three scores of 1 to 5 for an edit that takes reasoning; right is what has 5 in all that its kind requires.

Logical edits are judged yes or no (0 or 1, which stand for 1 and 5) in two questions and need no plausibility; an edit that changes
everything (`consistency_free`) needs no consistency. The weighted score is

    0.3 consistency + 0.5 reasoning + 0.2 plausibility      0.8 reasoning + 0.2 plausibility where consistency is free
    0.3 consistency + 0.7 reasoning                         of logical edits

and half of that, 1 at least, where the reasoning is 1. compat: official reproduces that an item counts as free in the weighted score as
soon as the data has a column `consistency_free` at all, whatever stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metabridge.eval.items import Item, Services, Verdict
from metabridge.eval.scorers import rubric
from metabridge.eval.scorers.rubric_parse import Reading

LOGICAL = "logical_reasoning"
_DIMENSIONS = {"consistency": "appearance consistency", "reasoning": "instruction reasoning", "plausibility": "visual plausibility"}

calls = rubric.calls
COMPAT = True


def worst(options: Mapping[str, Any], item: Item) -> Mapping[str, float]:
    return {"accuracy": 0.0, "score": 1.0}


def load(options: Mapping[str, Any], services: Services) -> Rise:
    return Rise(*rubric.parts(options, services))


class Rise(rubric.Rubric):
    def _made(self, readings: Mapping[str, Reading], item: Item, detail: dict[str, Any]) -> Verdict:
        """A call's dimension is the first word of its name: reasoning_source is one of reasoning."""
        scores = {name.partition("_")[0]: next(iter(reading.scores.values())) for name, reading in readings.items()}
        logical = item.group == LOGICAL
        if logical:
            scores = {name: on_five(score) for name, score in scores.items()}
        free = bool(item.want.get("consistency_free"))
        counts_as_free = "consistency_free" in item.want if self.compat == "official" else free
        values = {"accuracy": 100 * float(right(scores, logical, free)), "score": weighted(scores, logical, counts_as_free)}
        facets = {_DIMENSIONS[name]: ((score - 1) / 4, 1.0) for name, score in scores.items()}
        return Verdict(values, rubric.reason(self.spec, readings), detail, facets)


def on_five(score: float) -> float:
    return 4 * min(score, 1) + 1


def right(scores: Mapping[str, float], logical: bool, free: bool) -> bool:
    required = ["reasoning", *([] if free and not logical else ["consistency"]), *([] if logical else ["plausibility"])]
    return all(scores[name] == 5 for name in required)


def weighted(scores: Mapping[str, float], logical: bool, free: bool) -> float:
    if logical:
        score = 0.3 * scores["consistency"] + 0.7 * scores["reasoning"]
    elif free:
        score = 0.2 * scores["plausibility"] + 0.8 * scores["reasoning"]
    else:
        score = 0.3 * scores["consistency"] + 0.5 * scores["reasoning"] + 0.2 * scores["plausibility"]
    return max(1.0, 0.5 * score) if scores["reasoning"] == 1 else score
