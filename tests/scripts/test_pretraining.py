"""The pretraining loop on a model of nine weights: a kill changes nothing, and two processes are one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabridge.bridge.errors import UserError
from metabridge.scripts.pretraining import Row, Settings, finish, learning_rate_factor, once, own_rows, pretrain
from metabridge.training.launch import launch

SETTINGS = Settings(steps=6, batch_size=8, lr=0.1, warmup=2, precision="no", every=1, checkpoint_every=2)


class Line(nn.Module):
    """Learns to sum; `noise` is drawn in the forward pass, as the pretraining scripts do."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.noise = nn.Linear(8, 1), noise

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x + self.noise * torch.randn_like(x)) - x.sum(1, keepdim=True)).square().mean()


def make_batch(rows: Sequence[Row]) -> Tensor:
    return torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(row.seed)) for row in rows])


def evaluate(model: nn.Module) -> dict[str, float]:
    return {"error": float(model(torch.randn(4, 8, generator=torch.Generator().manual_seed(1))).detach()), "luck": float(torch.rand(()))}


def run(work: Path, noise: float, batches: Callable[[Sequence[Row]], Tensor] = make_batch) -> dict[str, Tensor]:
    work.mkdir(exist_ok=True)
    once(work / "pool", lambda draft: draft.mkdir())  # the first process alone
    model = Line(noise)
    scores = pretrain(model, batches, SETTINGS, work, evaluate, evaluate_every=2)
    finish(work, work / "out", SETTINGS, scores, lambda out: out.mkdir(exist_ok=True))
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def log(work: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds_per_step"} for row in rows]


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    calls = []

    def dies(rows: Sequence[Row]) -> Tensor:
        calls.append(rows)
        if len(calls) == 6:
            raise KeyboardInterrupt  # step 5 is logged, the checkpoint is of step 4
        return make_batch(rows)

    expected = run(whole, noise=0.5)
    with pytest.raises(KeyboardInterrupt):
        run(killed, 0.5, dies)
    assert log(killed)[-1]["step"] == 5
    torch.rand(7)  # the state of the global generator is nobody's business
    resumed = run(killed, noise=0.5)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    *trained, last = log(killed)
    assert trained == log(whole)[:-1]
    assert (last["step"], last["error"]) == (6, log(whole)[-1]["error"])
    run(killed, noise=0.5)  # nothing is left to do but the scores
    assert len(log(killed)) == len(trained) + 1


def test_the_model_lies_beside_its_log_and_scores(tmp_path: Path) -> None:
    run(tmp_path, noise=0.0)
    summary = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert summary["settings"]["steps"] == 6 and summary["settings"]["seed"] == 0
    assert summary["seconds"] >= 0 and summary["scores"].keys() == {"error", "luck"}
    assert (tmp_path / "out" / "log.jsonl").read_bytes() == (tmp_path / "log.jsonl").read_bytes()


def test_two_processes_are_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert launch([__file__, str(two)], 2, cuda=False) == 0
    weights, expected = torch.load(two / "weights.pt", weights_only=True), run(one, noise=0.0)
    assert all(torch.allclose(weights[name], expected[name], rtol=1e-5, atol=1e-6) for name in expected)
    assert [row["step"] for row in log(two)] == [row["step"] for row in log(one)]  # the first process alone wrote
    losses = [[row["loss"] for row in log(work) if "loss" in row] for work in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("processes", [1, 2, 32])
def test_every_process_sees_pictures_and_texts(processes: int) -> None:
    from metabridge.scripts.pretrain_flatland_brain import draw_lessons

    settings = Settings(steps=1, batch_size=64, lr=1.0)
    pictures = []
    for process in range(processes):
        own = [len(x.images) for x in draw_lessons([Row(i, i) for i in own_rows(settings, process, processes)])]
        assert 0 in own and any(own)
        pictures += own
    assert [pictures.count(k) for k in range(3)] == [32, 27, 5]  # half of them texts, a row in twelve on two pictures


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="8 does not divide by 3 processes"):
        own_rows(SETTINGS, 0, 3)


def test_short_runs_have_a_learning_rate() -> None:
    factors = [learning_rate_factor(step, Settings(steps=2, batch_size=1, lr=1.0, warmup=0)) for step in range(2)]
    assert factors == [1.0, 1.0]


def test_a_draft_is_not_the_file(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        draft.write_text("half")
        raise OSError

    with pytest.raises(OSError):
        once(tmp_path / "pool", fails)
    assert once(tmp_path / "pool", lambda draft: draft.write_text("whole")).read_text() == "whole"
    assert once(tmp_path / "pool", fails).read_text() == "whole"


if __name__ == "__main__":  # one of two processes
    folder = Path(sys.argv[1])
    result = run(folder, noise=0.0)
    torch.save(result, folder / "weights.pt")
