"""Score every picture: a line each in `scored.jsonl`, which names the scorer, so that another judge does not inherit its numbers."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import kind_of
from metabridge.eval import store
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.definition import digest
from metabridge.eval.generate import drawn
from metabridge.eval.items import INFRA_ERROR, OK, Scorer, Unscored, Verdict
from metabridge.eval.plan import Plan, Sample
from metabridge.eval.threads import as_they_come

SCORED = "scored.jsonl"
Progress = Callable[[int, bool], None]
Record = dict[str, Any]
_KINDS: store.Kinds = {"key": str, "by": str, "state": str, "values": dict, "reason": str, "thought": str | None, "sha256": str | None}


@dataclass(frozen=True)
class Scored:
    sample: Sample
    state: str  # ok | model_error (counts as the worst) | infra_error (not scored)
    values: Mapping[str, float]
    reason: str  # what is wrong
    thought: str | None
    detail: Mapping[str, Any] = field(default_factory=dict)
    facets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    features: Path | None = None


def score(
    plan: Plan,
    folder: Path,
    scorer: Scorer,
    progress: Progress = lambda pictures, fresh: None,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Score what is not scored yet by this scorer. A picture that was drawn anew since is looked at again."""
    by, there = tag(identity_of(plan, scorer)), drawn(folder)
    earlier = _records(folder, by)
    chunks = plan.chunks()[shard[0] :: shard[1]]
    open_ones: list[tuple[Sample, Record]] = []
    for sample in (sample for chunk in chunks for sample in chunk):
        record, before = {**_state(sample, there.get(sample.key), folder), "by": by}, earlier.get(sample.key)
        if before is not None and before["state"] == OK and before["sha256"] == record["sha256"] and _kept(before, folder):
            progress(1, False)
        elif record["state"] == OK:
            open_ones.append((sample, record))
        else:
            if record != before:
                store.append(folder / SCORED, [record])
            progress(1, False)
    if open_ones:
        scorer.check()
    batches = [open_ones[start : start + scorer.batch] for start in range(0, len(open_ones), scorer.batch)]
    for batch in as_they_come(lambda rows: _score(rows, scorer, folder, plan.definition), batches, scorer.workers):
        store.append(folder / SCORED, batch)
        progress(len(batch), True)


def read(plan: Plan, folder: Path, by: str) -> list[Scored]:
    """What the scorer `by` (a tag) found; pictures it has not seen are unscored."""
    records = _records(folder, by)
    empty: Record = {"state": INFRA_ERROR, "values": {}, "reason": "not scored", "thought": None}
    return [_scored(sample, records.get(sample.key, empty), folder) for sample in plan.samples()]


def identity_of(plan: Plan, scorer: Scorer) -> dict[str, Any]:
    """The scorer's identity, and a hash of how the benchmark's file uses it."""
    return {**scorer.identity, "definition": digest(plan.definition)}


def tag(identity: Mapping[str, Any]) -> str:
    """A scorer's name in the records: everything that decides a score."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _records(folder: Path, by: str) -> dict[str, Record]:
    return {record["key"]: record for record in store.read(folder / SCORED, _KINDS) if record["by"] == by}


def _scored(sample: Sample, record: Record, folder: Path) -> Scored:
    try:
        values = {name: float(value) for name, value in record["values"].items()}
        facets = {name: (float(points), float(of)) for name, (points, of) in record.get("facets", {}).items()}
        features = folder / record["features"] if record.get("features") else None
        detail = dict(record.get("detail", {}))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / SCORED}: the record of {sample.key} cannot be read ({error}); remove its line, then run the same command again"
        ) from error
    return Scored(sample, record["state"], values, record["reason"], record["thought"], detail, facets, features)


def _kept(record: Record, folder: Path) -> bool:
    """Whether the features of a scored picture are still there, where it has some."""
    return not record.get("features") or (folder / record["features"]).exists()


def _state(sample: Sample, there: Record | None, folder: Path) -> Record:
    """The record of a picture before it is scored: is it there, and is it what was drawn?"""
    record: Record = {"key": sample.key, "state": OK, "values": {}, "reason": "", "thought": None, "sha256": None}
    if there is None:
        return {**record, "state": INFRA_ERROR, "reason": "not drawn"}
    record["thought"] = there["thought"]
    if there["state"] != OK:
        return {**record, "state": there["state"], "reason": there["reason"]}
    try:
        data = (folder / sample.file).read_bytes()
    except OSError as error:
        return {**record, "state": INFRA_ERROR, "reason": f"{sample.file}: {error.strerror}"}
    if (sha256 := hashlib.sha256(data).hexdigest()) != there["sha256"]:
        return {**record, "state": INFRA_ERROR, "reason": f"{sample.file}: not the picture that was drawn"}
    return {**record, "sha256": sha256}


def _score(rows: Sequence[tuple[Sample, Record]], scorer: Scorer, folder: Path, benchmark: Benchmark) -> list[Record]:
    pairs = [(sample.item, _picture(folder / sample.file)) for sample, _ in rows]
    verdicts, who = scorer.score(pairs), f"scorer {benchmark.scorer}"
    if not isinstance(verdicts, Sequence) or len(verdicts) != len(rows):
        given = f"{len(verdicts)} verdicts" if isinstance(verdicts, Sequence) else kind_of(verdicts)
        raise UserError(f"{who}: gave {given} for {len(rows)} pictures, {rows[0][0].key} first; it gives one for each")
    for (sample, _), verdict in zip(rows, verdicts, strict=True):
        if odd := _odd(verdict, benchmark):
            raise UserError(f"{who}: {odd}, for {sample.key}; mend it")
    return [{**record, **_said(sample, verdict, record["by"], folder)} for (sample, record), verdict in zip(rows, verdicts, strict=True)]


def _odd(verdict: Any, benchmark: Benchmark) -> str:
    """What of a verdict could not be kept, or not be counted by the benchmark's metrics."""
    if isinstance(verdict, Unscored):
        return ""
    if not isinstance(verdict, Verdict):
        return f"gave {kind_of(verdict)} in place of a Verdict or Unscored"
    if not isinstance(verdict.values, Mapping) or not isinstance(verdict.features, np.ndarray | None):
        return f"gave values and features as {kind_of(verdict.values)} and {kind_of(verdict.features)}; they are a mapping and an array"
    if wrong := next((name for name, value in verdict.values.items() if not isinstance(value, float | int | np.number)), None):
        return f"its value {wrong} is {kind_of(verdict.values[wrong])}, not a number"
    for metric in benchmark.metrics:
        if metric.within == "ratio" and metric.source in verdict.values and f"{metric.source}.of" not in verdict.values:
            return f"gave {metric.source} without {metric.source}.of, which a ratio is divided by"
    try:
        json.dumps([verdict.detail, verdict.facets, verdict.reason])
    except (TypeError, ValueError, RecursionError) as error:
        return f"its detail, facets or reason is no plain JSON ({error})"
    return ""


def _picture(path: Path) -> Image.Image:
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.convert("RGB")


def _said(sample: Sample, verdict: Verdict | Unscored, by: str, folder: Path) -> Record:
    if isinstance(verdict, Unscored):
        return {"state": INFRA_ERROR, "reason": " ".join(str(verdict).split())}
    said: Record = {"values": {name: float(value) for name, value in verdict.values.items()}, "reason": verdict.reason}
    if bad := [name for name, value in verdict.values.items() if not np.isfinite(value)]:
        return {"state": INFRA_ERROR, "reason": f"{bad[0]} came out as {verdict.values[bad[0]]}"}
    if verdict.detail:
        said["detail"] = dict(verdict.detail)
    if verdict.facets:
        said["facets"] = {name: list(pair) for name, pair in verdict.facets.items()}
    if verdict.features is not None:
        name = f"features/{by}/{sample.key}.npy"
        buffer = io.BytesIO()
        np.save(buffer, verdict.features.astype(np.float32), allow_pickle=False)
        store.write(folder / name, buffer.getvalue())
        said["features"] = name
    return said
