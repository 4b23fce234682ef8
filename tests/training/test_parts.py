"""What the loop is made of, each part against something known."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Train
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.log import read_metrics
from metabridge.training.optim import EMA, adamw, learning_rate, restore, swapped
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


def rates(settings: Train, *steps: int) -> list[float]:
    return [learning_rate(settings, step, settings.lr) for step in steps]


def test_learning_rate() -> None:
    cosine = {"steps": 110, "warmup": 10, "lr": 2.0}
    assert rates(Train(**cosine), 0, 4, 9, 10, 110) == [0.2, 1.0, 2.0, 2.0, 0]
    assert rates(Train(**cosine), 60) == [pytest.approx(1.0)]
    assert rates(Train(**cosine, min_lr=0.1), 9, 10, 60, 110) == [2.0, 2.0, pytest.approx(1.1), pytest.approx(0.2)]
    assert rates(Train(steps=110, warmup=0, schedule="constant", lr=2.0), 100) == [2]
    assert learning_rate(Train(**cosine), 60, 4.0) == pytest.approx(2.0)  # of a part with a rate of its own


def test_warmup_stable_decay() -> None:
    """The last 20 of 100 steps fall in a line; step 100 would be at the end of it."""
    wsd = {"steps": 100, "warmup": 10, "schedule": "wsd", "decay": 0.2, "lr": 2.0}
    assert rates(Train(**wsd), 4, 10, 79, 80, 85, 90, 99, 100) == pytest.approx([1.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.1, 0.0])
    assert rates(Train(**wsd, min_lr=0.5), 80, 90, 100) == pytest.approx([2.0, 1.5, 1.0])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"schedule": "wsd"},
            "train.schedule: wsd given without train.decay, the share of the steps over which the rate falls; set it to 0.1",
        ),
        ({"decay": 0.1}, "train.decay: 0.1 given, but it has no effect with schedule cosine; leave it out, or use wsd"),
        (
            {"schedule": "constant", "min_lr": 0.1},
            "train.min_lr: 0.1 given, but a constant rate does not fall; leave it out, or use cosine or wsd",
        ),
    ],
)
def test_settings_of_the_schedule_without_effect(settings: Tree, line: str) -> None:
    with pytest.raises(UserError) as raised:
        Train(**settings)
    assert str(raised.value) == line


class Parts(torch.nn.Module):
    """Named as a bridge's."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = torch.nn.Parameter(torch.ones(2, 3))
        self.connector = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
        self.hand = torch.nn.Linear(3, 3)


def test_every_part_has_its_rate_and_decay() -> None:
    model = Parts()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = adamw(model, Train(lr=1, lr_queries=2, lr_hand=3, weight_decay=0.1)).param_groups
    found = {tuple(names[id(parameter)] for parameter in group["params"]): (group["peak"], group["weight_decay"]) for group in groups}
    assert found == {
        ("queries",): (2, 0.0),
        ("connector.0.weight",): (1, 0.1),
        ("connector.0.bias", "connector.1.weight", "connector.1.bias"): (1, 0.0),
        ("hand.weight",): (3, 0.1),
        ("hand.bias",): (3, 0.0),
    }
    assert {group["peak"] for group in adamw(model, Train(lr=1)).param_groups} == {1}
    model.hand.requires_grad_(False)
    with pytest.raises(UserError, match=r"train.lr_hand: 3 given, but nothing of the hand is trained; set hand.train, or leave it out"):
        adamw(model, Train(lr_hand=3))


def test_the_input_for_source_pictures_has_its_rate() -> None:
    model = Parts()
    model.hand.reference_input = torch.nn.Linear(3, 3, bias=False)
    given = {id(group["params"][0]): group["peak"] for group in adamw(model, Train(lr=1, lr_hand=3, lr_references=4)).param_groups}
    assert given[id(model.hand.reference_input.weight)] == 4 and given[id(model.hand.bias)] == 3
    as_hand = {id(group["params"][0]): group["peak"] for group in adamw(model, Train(lr=1, lr_hand=3)).param_groups}
    assert as_hand[id(model.hand.reference_input.weight)] == 3
    model.hand.weight.requires_grad_(False), model.hand.bias.requires_grad_(False)
    assert [group["peak"] for group in adamw(model, Train(lr=1, lr_hand=3)).param_groups] == [1, 1, 1, 3]
    del model.hand.reference_input
    with pytest.raises(UserError, match=r"train.lr_references: 4 given, but no input for source pictures is trained; set hand.references"):
        adamw(model, Train(lr_references=4))


def test_restored_moments_keep_the_recipes_rates() -> None:
    """Other groups' rates and decays, and still the moments of the same parameters."""
    model = Parts()
    before = adamw(model, Train(lr=1, weight_decay=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    before.step()
    after = adamw(model, Train(lr=1, lr_queries=5, weight_decay=0.3))
    restore(after, before.state_dict())
    assert [(group["peak"], group["weight_decay"]) for group in after.param_groups] == [(5, 0.0), (1, 0.3), (1, 0.0), (1, 0.3), (1, 0.0)]
    for parameter in model.parameters():
        assert torch.equal(after.state[parameter]["exp_avg"], before.state[parameter]["exp_avg"]) and after.state[parameter]["step"] == 1


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


def of_step(step: int, **guard: Any) -> Checkpoint:
    return Checkpoint(step, {"w": torch.full((2,), float(step))}, {}, None, guard, [0.5], 1.0, 0.5, {}, {})


def test_checkpoints_keep_the_newest_and_the_one_to_go_back_to(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoints.save(tmp_path, of_step(step, anchor=2), keep=2)
    assert [checkpoints.step_of(path) for path in checkpoints.paths(tmp_path)] == [2, 4, 5]
    newest = checkpoints.latest(tmp_path)
    assert newest is not None and newest.step == 5 and newest.weights["w"].tolist() == [5, 5]


def test_a_checkpoint_ends_with_its_checksum(tmp_path: Path) -> None:
    """Torch reads the file as it is; one bit anywhere, or a byte more or less, and it is not whole."""
    path = checkpoints.save(tmp_path, of_step(1))
    data = path.read_bytes()
    assert checkpoints.is_whole(path) and hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert torch.load(path, weights_only=True)["weights"]["w"].tolist() == [1, 1]
    for place in (0, len(data) // 2, -1):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert not checkpoints.is_whole(path)
    for other in (data[:-1], data + b"x", b"", data[-32:]):
        path.write_bytes(other)
        assert not checkpoints.is_whole(path)


def test_a_checkpoint_of_another_version(tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "step-000001.pt")
    with pytest.raises(UserError, match=r"step-000001.pt: written by another version of metabridge; "):
        checkpoints.latest(tmp_path)


def test_metrics_cut_short_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
