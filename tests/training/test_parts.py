"""What the loop is made of, each part against something known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Train
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.log import read_metrics
from metabridge.training.optim import EMA, adamw, learning_rate, swapped
from metabridge.training.precision import usable
from metabridge.training.seeds import row_seed

Tree = dict[str, Any]


def test_seeds_are_stable_and_apart() -> None:
    assert row_seed(0, 0, 0) == 5157613577736964590  # a run of today is resumed by the version of tomorrow
    seeds = {row_seed(seed, step, row, use) for seed in range(4) for step in range(20) for row in range(20) for use in ("row", "noise")}
    assert len(seeds) == 4 * 20 * 20 * 2 and all(0 <= seed < 2**63 for seed in seeds)


def test_bfloat16_on_a_cpu_without_it_is_float32() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    old, new = {"architecture": "x86_64", "avx2": True}, {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}
    assert usable("bfloat16", cpu, old) == "float32"
    assert usable("bfloat16", cpu, new) == usable("bfloat16", cuda, old) == "bfloat16"
    assert usable("bfloat16", cpu, {}) == usable("bfloat16", cpu, {"architecture": "aarch64"}) == "bfloat16"  # not known
    assert usable("float64", cpu, old) == "float64"


def test_learning_rate() -> None:
    settings = Train(steps=110, warmup=10, lr=2.0)
    assert [learning_rate(settings, step) for step in (0, 4, 9, 10)] == [0.2, 1.0, 2.0, 2.0]
    assert learning_rate(settings, 60) == pytest.approx(1.0)
    assert learning_rate(settings, 110) == 0
    assert learning_rate(Train(steps=110, warmup=0, schedule="constant", lr=2.0), 100) == 2


def test_norms_biases_and_queries_do_not_decay() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = torch.nn.Parameter(torch.ones(2, 3))
            self.linear = torch.nn.Linear(3, 3)
            self.norm = torch.nn.LayerNorm(3)
            self.frozen = torch.nn.Linear(3, 3).requires_grad_(False)

    model = Model()
    decayed, kept = adamw(model, Train(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model.linear.weight)]
    assert {id(p) for p in kept["params"]} == {id(p) for p in (model.queries, model.linear.bias, model.norm.weight, model.norm.bias)}


def test_ema_is_the_weighted_mean() -> None:
    values = [1.0, 4.0, -2.0, 8.0]
    weights = {"w": torch.zeros(3, dtype=torch.float64)}
    ema, expected = EMA(weights, 0.5), 0.0
    for step, value in enumerate(values):
        weights["w"].fill_(value)
        ema.update(weights, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert ema.weights["w"].tolist() == pytest.approx([expected] * 3, abs=1e-12)
    with swapped(weights, ema.weights):
        assert weights["w"].tolist() == pytest.approx([expected] * 3)
    assert weights["w"].tolist() == [8.0] * 3


def test_checkpoints_keep_two_and_name_a_damaged_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, Checkpoint(step, {"w": torch.full((2,), float(step))}, {}, None, [0.5], 1.0, 0.5, {}))
    assert [path.name for path in checkpoints.paths(tmp_path)] == ["step-000002.pt", "step-000003.pt"]
    newest = checkpoints.latest(tmp_path, torch.device("cpu"))
    assert newest is not None and newest.step == 3 and newest.weights["w"].tolist() == [3, 3]
    (tmp_path / "step-000003.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"step-000003.pt: cannot be read; remove it to go on from the one before"):
        checkpoints.latest(tmp_path, torch.device("cpu"))


def test_metrics_cut_short_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
