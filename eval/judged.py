"""What is to be known of a judge before its scores: answers that had to be asked for again, and known pictures that it judged wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metabridge.eval.items import INFRA_ERROR
from metabridge.eval.judges import Judge, canary
from metabridge.eval.judges.cache import Recorded
from metabridge.eval.judges.replay import Replay
from metabridge.eval.score import Scored

LEAST_RIGHT = 0.9  # of the known pictures, and of answers that need not be asked for again: below, the scores come with a warning


def judged(scored: Sequence[Scored], judge: Judge | None) -> dict[str, Any]:
    """Empty where no judge was asked. The known pictures are judged in every run; what was recorded is not asked again."""
    if judge is None:
        return {}
    answers = [answer for s in scored for answer in s.detail.get("answers", ())]
    extra = sum(answer["asked"] - 1 for answer in answers)
    lost = [s.reason for s in scored if s.state == INFRA_ERROR and s.reason not in ("not drawn", "not scored")]
    found: dict[str, Any] = {"questions": len(answers), "asked_again": extra, "pictures_without_score": len(lost), "warnings": []}
    if extra > (1 - LEAST_RIGHT) * len(answers):
        found["warnings"].append(f"{extra} of the judge's {len(answers)} answers had to be asked for again: its scores are doubtful.")
    if isinstance(judge, Recorded | Replay) and (models := judge.answered_as()):
        found["answered_as"] = models
        if len(models) > 1:
            found["warnings"].append(f"The judge answered as {', '.join(models)}: the scores of several models are mixed.")
    if judge.identity["kind"] != "replay":  # which looks at nothing
        drift = canary.drift(judge)
        found["canary"] = {"right": drift.right, "of": drift.of, "wrong": list(drift.wrong), "unanswered": list(drift.unanswered)}
        answered = drift.of - len(drift.unanswered)
        if drift.right < LEAST_RIGHT * answered:
            found["warnings"].append(f"The judge is right about {drift.right} of {answered} known pictures: its scores are doubtful.")
    return found
