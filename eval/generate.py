"""Draw what the plan says, a chunk at a time: `images/**.png` and a line each in `drawn.jsonl`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metabridge.bridge.files import png
from metabridge.eval import store
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK
from metabridge.eval.plan import CHUNK, Plan, Sample, refuse_replaced
from metabridge.eval.sources import sources
from metabridge.eval.subjects import Drawing, Subject

DRAWN = "drawn.jsonl"
_KINDS: store.Kinds = {"key": str, "seed": int, "thought": str | None, "state": str, "reason": str, "sha256": str | None}
ALONE = 4  # pictures at a time of a subject that draws each by itself: a kill loses no more, and some of them cost money
SETTINGS = ("num_inference_steps", "guidance_scale", "height", "width")  # of a plan's generation, that a subject is told

Progress = Callable[[int, bool], None]  # pictures done, and whether they were done just now


def generate(
    plan: Plan,
    folder: Path,
    subject: Subject,
    progress: Progress = lambda pictures, fresh: None,
    *,
    data: Path | None = None,
    shard: tuple[int, int] = (0, 1),
) -> None:
    """Draw every chunk that is not whole yet; `progress` hears of the pictures of an earlier run first.

    `data` is where the pictures of edits lie; `shard` (i, n) takes every n-th chunk from the i-th.
    """
    records = drawn(folder)
    missing = []
    for chunk in plan.chunks()[shard[0] :: shard[1]]:
        lacking = [sample for sample in chunk if not is_drawn(sample, records.get(sample.key), folder)]
        if lacking and not subject.alone:
            lacking = chunk
        progress(len(chunk) - len(lacking), False)
        step = ALONE if subject.alone else CHUNK
        missing += [lacking[start : start + step] for start in range(0, len(lacking), step)]
    settings = {key: value for key, value in plan.identity["generation"].items() if key in SETTINGS}
    for chunk in missing:
        given = [sources(plan.definition, sample.item, data) for sample in chunk]
        drawings = subject.draw(chunk[0].row, chunk, given, settings)
        if not (folder / DRAWN).exists():
            refuse_replaced(plan, folder)
        # records follow their pictures, so that a record always has its file
        store.append(folder / DRAWN, [_keep(sample, drawing, folder) for sample, drawing in zip(chunk, drawings, strict=True)])
        progress(len(chunk), True)


def drawn(folder: Path) -> dict[str, dict[str, Any]]:
    """What lies in `drawn.jsonl`, the last word on each picture."""
    return {record["key"]: record for record in store.read(folder / DRAWN, _KINDS)}


def is_drawn(sample: Sample, record: dict[str, Any] | None, folder: Path) -> bool:
    """Whether the picture lies there as it was drawn; a picture that could not be is drawn, too, and counts as wrong."""
    if record is None or record["seed"] != sample.seed or record["state"] == INFRA_ERROR:
        return False
    if record["state"] == MODEL_ERROR:
        return True
    try:
        return bool(hashlib.sha256((folder / sample.file).read_bytes()).hexdigest() == record["sha256"])
    except OSError:
        return False


def _keep(sample: Sample, drawing: Drawing, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"key": sample.key, "seed": sample.seed, "prompt": sample.item.text, "thought": drawing.thought}
    if drawing.image is None:
        return {**record, "state": drawing.state, "reason": drawing.reason, "sha256": None}
    data = png(drawing.image, {"prompt": sample.item.text, "thought": drawing.thought or "", "seed": str(sample.seed)})
    store.write(folder / sample.file, data)
    source = {"source": drawing.source} if drawing.source else {}
    return {**record, **source, "state": OK, "reason": "", "sha256": hashlib.sha256(data).hexdigest()}
