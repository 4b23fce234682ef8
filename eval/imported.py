"""What an official scorer wrote, taken into an evaluation folder of our own: the variant `official`, with our intervals."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import plan as plans
from metabridge.eval import result as results
from metabridge.eval import store
from metabridge.eval.benchmarks import Benchmark
from metabridge.eval.items import OK, Services
from metabridge.eval.score import SCORED, read, tag


def take(benchmark: Benchmark, word: str, file: Path, data: Path | None, layout: Any, folder: Path, images: int | None) -> None:
    """plan.json, scored.jsonl and result.json of what stands in `file`; pictures without a line are unscored."""
    if not file.exists():
        raise UserError(f"{file}: no such file; give what the official scorer of {benchmark.name} wrote")
    items = benchmark.items(data)
    rows = layout.results(file, items)
    if not rows:
        raise UserError(f"{file}: no result in it that belongs to a prompt of {benchmark.name}")
    digest = hashlib.sha256(b"".join(repr(row).encode() for row in rows)).hexdigest()
    model = {"kind": "official", "name": file.stem, "fingerprint": digest}
    scoring = {"variant": "official", "parser": "official", "file_sha256": digest}
    most = max(key[2] for key, _, _ in rows) + 1
    if images is not None and images < most:
        raise UserError(f"--images {images}: {file} has {most} pictures of a prompt; give --images {most}, or leave it out")
    code, services = {"version": "", "commit": ""}, {"benchmark": word, "data": None if data is None else str(data.parent)}
    made = plans.make(benchmark, model, {}, code, images=images or most, rows=["bridge"], data=data, scoring=services)
    planned = plans.save(made, folder)
    by, samples = tag(scoring), {(s.item.group, s.item.id, s.k): s for s in planned.samples()}
    if stray := next((key for key, _, _ in rows if key not in samples), None):
        raise UserError(
            f"{file}: a result of {'/'.join(map(str, stray))}, which is no picture of {benchmark.name}; is it another benchmark's?"
        )
    store.append(
        folder / SCORED,
        [
            {"key": samples[key].key, "state": OK, "values": dict(values), "reason": reason, "thought": None, "sha256": None, "by": by}
            for key, values, reason in rows
        ],
    )
    scored = read(planned, folder, by)
    results.write(results.summarize(planned, scored, scoring, Services(None), {}), folder)
