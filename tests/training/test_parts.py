"""What the loop is made of, each part against something known."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Train
from metabridge.training import checkpoint as checkpoints
from metabridge.training.checkpoint import Checkpoint
from metabridge.training.data import Mixture, Share, drop, to_pixels
from metabridge.training.log import read_metrics
from metabridge.training.optim import EMA, adamw, learning_rate, swapped
from metabridge.training.precision import usable
from metabridge.training.seeds import row_seed

Tree = dict[str, Any]


def test_seeds_are_stable_and_apart() -> None:
    assert row_seed(0, 0, 0) == 5157613577736964590  # a run of today is resumed by the version of tomorrow
    seeds = {row_seed(seed, step, row, use) for seed in range(4) for step in range(20) for row in range(20) for use in ("row", "noise")}
    assert len(seeds) == 4 * 20 * 20 * 2 and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("grad_accum", [1, 2])
def test_shares_cover_the_batch_once(processes: int, grad_accum: int) -> None:
    shares = [Share(16, grad_accum, process, processes) for process in range(processes)]
    assert sorted(row for share in shares for micro in range(grad_accum) for row in share.rows(micro)) == list(range(16))


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UserError) as raised:
        Share(16, 2, 0, 3)
    assert str(raised.value) == (
        "train.batch_size: 16 (global) does not divide by 6 = 2 (train.grad_accum) x 3 (processes); make it a multiple of 6"
    )


def test_rows_depend_on_seed_step_and_row_alone(tree: Tree) -> None:
    tree["objective"] = {"think": 0.5, "drop_text": 0.2}
    a, b = Mixture(Recipe.from_dict(tree)), Mixture(Recipe.from_dict(tree))
    first = [a.row(step, index) for step in range(3) for index in range(8)]
    again = [b.row(step, index) for step in reversed(range(3)) for index in reversed(range(8))][::-1]
    for one, other in zip(first, again, strict=True):
        assert (one.example.prompt, one.example.thought, one.caption) == (other.example.prompt, other.example.thought, other.caption)
        assert one.example.target is not None and one.example.target.tobytes() == other.example.target.tobytes()  # type: ignore[union-attr]
    assert len({row.example.target.tobytes() for row in first if row.example.target}) > 20


def test_rates_of_the_guidance_rows_and_of_thoughts(tree: Tree) -> None:
    tree["objective"] = {"think": 0.3, "drop_text": 0.1}
    mixture = Mixture(Recipe.from_dict(tree))
    rows = [mixture.row(0, index) for index in range(2000)]
    empty = [row for row in rows if not row.example.prompt]
    thoughts = [row for row in rows if row.example.thought]
    assert abs(len(empty) / 2000 - 0.1) < 0.03 and all(row.example.thought is None and row.caption == "" for row in empty)
    assert abs(len(thoughts) / 2000 - 0.9 * 0.3) < 0.04 and all(row.caption == row.example.thought for row in thoughts)


def test_the_teacher_is_told_the_plain_caption(tree: Tree) -> None:
    """The hand's own text encoder knows captions alone; a dropped row is dropped for it too."""
    tree["objective"] = {"think": 0.0, "drop_text": 0.2}
    tree["data"][0]["reworded"] = 1.0
    rows = [Mixture(Recipe.from_dict(tree)).row(0, index) for index in range(50)]
    assert all(row.caption == row.example.caption != row.example.prompt for row in rows if row.example.prompt)
    assert {row.caption for row in rows if not row.example.prompt} == {""}


@pytest.mark.parametrize("think", [0.0, 0.5, 1.0])
def test_prompts_for_the_sheet(tree: Tree, think: float) -> None:
    """Also where every row has a thought: then the thoughts, which say what is drawn."""
    tree["objective"] = {"think": think}
    mixture = Mixture(Recipe.from_dict(tree))
    prompts = mixture.prompts(8)
    assert len(set(prompts)) == 8 and all(prompts) and mixture.prompts(8) == prompts
    rows = [mixture.rows[0](row_seed(mixture.seed, 0, index, "sheet")) for index in range(400)]
    assert set(prompts) <= {row.prompt if think < 1 else row.thought for row in rows if think == 1 or row.thought is None}


def test_bfloat16_on_a_cpu_without_it_is_float32() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    old, new = {"architecture": "x86_64", "avx2": True}, {"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}
    assert usable("bfloat16", cpu, old) == "float32"
    assert usable("bfloat16", cpu, new) == usable("bfloat16", cuda, old) == "bfloat16"
    assert usable("bfloat16", cpu, {}) == usable("bfloat16", cpu, {"architecture": "aarch64"}) == "bfloat16"  # not known
    assert usable("float64", cpu, old) == "float64"


def test_drops_by_kind_of_row() -> None:
    picture = Image.new("RGB", (8, 8))
    rates = Objective(drop_text=0.2, drop_image=0.3, drop_both=0.1)
    edit, plain = Example("make it red", (picture,), picture), Example("a cat", (), picture, thought="a red cat")

    def kinds(example: Example) -> list[tuple[bool, bool]]:
        dropped = [drop(example, rates, (index + 0.5) / 100) for index in range(100)]
        return [(bool(row.prompt), bool(row.images)) for row in dropped]

    assert [kinds(edit).count(kind) for kind in ((False, True), (True, False), (False, False), (True, True))] == [20, 30, 10, 40]
    assert [kinds(plain).count(kind) for kind in ((False, False), (True, False))] == [30, 70]
    assert drop(plain, rates, 0.0).thought is None


def test_sources_that_do_not_exist_and_settings_without_effect(tree: Tree) -> None:
    wrong = copy.deepcopy(tree)
    wrong["data"][0]["source"] = "flatlnad"
    with pytest.raises(UserError, match=r"flatlnad: no such source; did you mean flatland\?"):
        Mixture(Recipe.from_dict(wrong))
    wrong = copy.deepcopy(tree)
    wrong["data"][0]["wieght"] = 2
    with pytest.raises(UserError, match=r"data flatland.wieght: no such setting; did you mean weight\?"):
        Mixture(Recipe.from_dict(wrong))
    wrong = copy.deepcopy(tree)
    wrong["data"][0]["reworded"] = 2
    with pytest.raises(UserError, match=r"data flatland.reworded: 2 given; it is a share of the rows, 0 to 1"):
        Mixture(Recipe.from_dict(wrong))
    tree["objective"] = {"drop_image": 0.1}
    with pytest.raises(UserError, match=r"objective.drop_image: no source of this recipe has pictures"):
        Mixture(Recipe.from_dict(tree))


def test_pixels() -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (255, 0, 255))
    pixels = to_pixels([image], (1, 2))
    assert pixels.shape == (1, 3, 1, 2)
    assert pixels[0, :, 0].T.tolist() == [[-1, -1, -1], [1, -1, 1]]
    assert to_pixels([Image.new("RGB", (64, 32)), Image.new("L", (9, 9))], (16, 16)).shape == (2, 3, 16, 16)


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
