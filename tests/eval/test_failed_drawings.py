"""A bridge that draws NaN now and then, through the real pipeline: that picture counts as wrong, and the evaluation goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.eval import benchmarks, plan, store
from metabridge.eval.generate import DRAWN, generate
from metabridge.eval.items import MODEL_ERROR, OK
from metabridge.eval.subjects.bridge import BridgeSubject
from tests.eval.oracle import BRIDGE, CODE, GENERATION


def test_a_failed_drawing_is_counted(bridge: Bridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = bridge.hand.draw

    def spoiled(*arguments: object) -> torch.Tensor:
        latents = draw(*arguments)  # type: ignore[arg-type]
        latents[0] = torch.nan
        return latents

    monkeypatch.setattr(bridge.hand, "draw", spoiled)
    pipeline = BridgePipeline(bridge, "tiny", batch_size=plan.CHUNK)
    generation = {**GENERATION, "batch_size": pipeline.batch_size}
    planned = plan.save(plan.make(benchmarks.load("flatland"), BRIDGE, generation, CODE, limit={"all": 1}, images=1), tmp_path)
    generate(planned, tmp_path, BridgeSubject(pipeline, {}))
    records = {record["key"]: record for record in store.read(tmp_path / DRAWN)}
    for chunk in planned.chunks():
        states = [records[sample.key]["state"] for sample in chunk]
        assert states == [MODEL_ERROR, *[OK] * (len(chunk) - 1)]
