"""What is to be known of the judge before its scores: answers that had to be asked for again, and known pictures it judged wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metabridge.eval.items import OK, Scorer
from metabridge.eval.score import Scored

LEAST_CANARY = 0.9  # share of the known pictures that a judge must get right before its scores are taken without a warning


def judged(scored: Sequence[Scored], scorer: Scorer) -> dict[str, Any]:
    """{} where no judge was asked."""
    answers = [s.detail["answers"] for s in scored if "answers" in s.detail]
    if "judge" not in scorer.identity:
        return {}
    asked = sum(answer["asked"] for row in answers for answer in row)
    unparsed = sum(s.state != OK and s.reason.startswith("judge: ") for s in scored)
    found: dict[str, Any] = {"questions": sum(map(len, answers)), "answers": asked, "without_answer": unparsed, "warnings": []}
    if found["questions"]:
        found["repeated"] = round((asked - found["questions"]) / found["questions"], 4)
        if found["repeated"] > 0.1:
            found["warnings"].append(f"{found['repeated']:.0%} of the judge's answers had to be asked for again: its scores are doubtful.")
    return found
