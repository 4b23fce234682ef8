"""Check every picture against what its prompt asks for: a line each in `scored.jsonl`."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.eval import benchmarks, store
from metabridge.eval.generate import DRAWN, INFRA_ERROR, MODEL_ERROR, OK
from metabridge.eval.plan import Plan, Sample

SCORED = "scored.jsonl"


@dataclass(frozen=True)
class Scored:
    sample: Sample
    state: str  # ok | model_error (counts as wrong) | infra_error (not scored)
    correct: bool
    reason: str  # why not
    thought: str | None


def score(plan: Plan, folder: Path) -> list[Scored]:
    """Score what is not scored yet. A picture that was drawn anew since, or is not there, is looked at again."""
    drawn = {record["key"]: record for record in store.read(folder / DRAWN)}
    earlier = {record["key"]: record for record in store.read(folder / SCORED)}
    check = benchmarks.load(plan.benchmark["name"]).correct
    scored, new = [], []
    for sample in plan.samples():
        record = _state(sample, drawn.get(sample.key), folder)
        before = earlier.get(sample.key)
        if record["state"] == OK:
            if before is not None and before["sha256"] == record["sha256"]:
                record = before
            else:
                image = Image.open(io.BytesIO((folder / sample.file).read_bytes())).convert("RGB")
                record["correct"], record["reason"] = check(image, plan.wants[sample.item.id])
        if record != before:
            new.append(record)
        scored.append(Scored(sample, record["state"], record["correct"], record["reason"], record["thought"]))
    store.append(folder / SCORED, new)
    return scored


def read(plan: Plan, folder: Path) -> list[Scored]:
    """What `score` found; pictures it has not seen are unscored."""
    records = {record["key"]: record for record in store.read(folder / SCORED)}
    empty = {"state": INFRA_ERROR, "correct": False, "reason": "not scored", "thought": None}
    rows = [(sample, records.get(sample.key, empty)) for sample in plan.samples()]
    return [Scored(sample, r["state"], r["correct"], r["reason"], r["thought"]) for sample, r in rows]


def _state(sample: Sample, drawn: dict[str, Any] | None, folder: Path) -> dict[str, Any]:
    """The record of a picture before it is checked: is it there, and is it what was drawn?"""
    record: dict[str, Any] = {"key": sample.key, "state": OK, "correct": False, "reason": "", "thought": None, "sha256": None}
    if drawn is None:
        return {**record, "state": INFRA_ERROR, "reason": "not drawn"}
    record["thought"] = drawn["thought"]
    if drawn["state"] == MODEL_ERROR:
        return {**record, "state": MODEL_ERROR, "reason": drawn["reason"]}
    try:
        data = (folder / sample.file).read_bytes()
    except OSError as error:
        return {**record, "state": INFRA_ERROR, "reason": f"{sample.file}: {error.strerror}"}
    if (sha256 := hashlib.sha256(data).hexdigest()) != drawn["sha256"]:
        return {**record, "state": INFRA_ERROR, "reason": f"{sample.file}: not the picture that was drawn"}
    return {**record, "sha256": sha256}
