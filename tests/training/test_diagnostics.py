"""Whether the hand listens: closed forms, a bridge that says nothing, and one that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metabridge.adapters import find_bridge, load_pipeline
from metabridge.bridge.artifact import read_artifact
from metabridge.bridge.interfaces import Condition, Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.training import watch
from metabridge.training.data import Mixture
from metabridge.training.diagnostics import MOST, Diagnosis, diagnose, distinct, fixed_pairs, loudness, statistics, warning
from metabridge.training.loader import Share
from metabridge.training.train import train
from tests.runs import made

Tree = dict[str, Any]


def look(recipe: Recipe, bridge: Bridge, share: Share | None = None) -> Diagnosis:
    pairs = fixed_pairs(recipe, Mixture(recipe, bridge.hand), bridge, share or Share(recipe.train.batch_size, 1))
    assert pairs is not None
    return diagnose(bridge, pairs)


def says_nothing(bridge: Bridge) -> Bridge:
    """The connector's output is its bias, whatever the prompt."""
    torch.nn.init.zeros_(bridge.connector.head.weight)
    torch.nn.init.constant_(bridge.connector.head.bias, 0.5)
    return bridge


def test_loudness_in_closed_form() -> None:
    embeds = torch.tensor([[[3.0, 4.0], [3.0, 4.0]], [[-3.0, -4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])  # what is padded does not count
    rms, spread = loudness(statistics(Condition(embeds, mask)))
    assert rms == pytest.approx(12.5**0.5) and spread == pytest.approx(1.0)
    assert loudness(statistics(Condition(torch.full((3, 2, 4), 2.0), torch.ones(3, 2))))[1] == 0
    rms, spread = loudness(statistics(Condition(torch.randn(8, 5, 6), torch.ones(8, 5))))
    assert 0.8 < rms < 1.2 and 0.2 < spread < 0.7  # about sqrt(1 / 5)


def test_no_prompt_that_changes_anything(tree: Tree) -> None:
    recipe, bridge = made(tree)
    found = look(recipe, says_nothing(bridge))
    assert (found.null_gap, found.shuffle_gap, found.shuffle_error, found.spread) == (0, 0, 0, 0)
    assert found.rms == pytest.approx(0.5 * bridge.scale) and found.native_rms == bridge.scale and found.ignored
    assert "the connector says the same for every prompt (0.00% of its RMS" in warning(found, recipe)


def test_the_gaps_are_those_of_predictions_and_losses(tree: Tree) -> None:
    """Against the hand's own answers, and the same for any way to cut the rows."""
    tree["objective"] = {"drop_text": 0.0}
    recipe, bridge = made(tree)
    pairs = fixed_pairs(recipe, Mixture(recipe, bridge.hand), bridge, Share(4, 1))
    assert pairs is not None and pairs.total == 16
    change, size, contrast = [], [], []
    with torch.no_grad():
        null = bridge.condition(bridge.brain.collate([Example("")])).expand(4)
        for batch in pairs.batches:
            latents, own = bridge.latents(batch), bridge.condition(batch.inputs[0])
            told, untold = (bridge.hand.respond(latents, c, bridge.objective, batch.noise_seeds) for c in (own, null))
            change.append((told - untold).square().mean())
            size.append(told.square().mean())
            right, wrong = (bridge.loss(batch, latents, c) for c in (own, own.rows(torch.tensor([1, 0, 3, 2]))))
            assert torch.equal(right, bridge(batch)) and not torch.equal(right, wrong)
            contrast.append((wrong - right) / (wrong + right))
    found = diagnose(bridge, pairs)
    assert found.null_gap == pytest.approx(float(sum(change) / sum(size)) ** 0.5, rel=1e-5)
    by_pair = torch.cat(contrast).view(-1, 2).mean(dim=1)
    assert found.shuffle_gap == pytest.approx(float(by_pair.mean()), abs=1e-6)
    assert found.shuffle_error == pytest.approx(float(by_pair.std()) / 8**0.5, rel=1e-4)
    alone = look(recipe, bridge, Share(4, 4))  # a row at a time
    assert alone.metrics() == pytest.approx(found.metrics(), rel=1e-4, abs=1e-6)


def test_the_shipped_bridge_is_listened_to() -> None:
    folder = find_bridge("flatland")
    recipe, bridge = read_artifact(folder).recipe, load_pipeline(folder).bridge
    found = look(recipe, bridge, Share(16, 1))
    assert not found.ignored
    assert 0.9 < found.shuffle_gap < 1 and found.shuffle_gap > 20 * found.shuffle_error  # another's prompt is another picture
    assert 0.2 < found.null_gap < 0.8 and 0.2 < found.spread < 0.6 and 0.5 < found.rms / found.native_rms < 2


def test_a_run_warns_and_one_that_has_just_begun_does_not(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree["log"] |= {"diagnose_every": 2}
    for patience, expected in ((500, 0), (2, 1)):  # after the warmup of 1 step: the look at step 4 comes late enough
        monkeypatch.setattr(watch, "PATIENCE", patience)
        recipe, bridge = made(tree, lr=0.0)
        train(recipe, says_nothing(bridge), tmp_path / str(patience))
        said = capsys.readouterr().out
        assert said.count("warning: ") == expected
    assert "warning: step 4: the hand does not listen to the bridge: shuffled against right prompts, the loss differs by +0.00% " in said
    rows = [json.loads(line) for line in (tmp_path / "500/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("shuffle_gap") == 0] == [2, 4]


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (Diagnosis(0.1, 0.01, 0.02, 1.0, 0.3, 1.0), "train longer or raise train.lr, or set objective.distill=1"),
        (Diagnosis(0.001, 0.3, 0.02, 1.0, 0.3, 1.0), "See that the prompts fit the pictures"),
        (Diagnosis(0.1, 0.01, 0.02, 40.0, 0.3, 1.0), "the connector's RMS is 40, the hand is used to 1. Lower train.lr"),
        (Diagnosis(0.1, 0.01, 0.02, 1.0, 0.003, 1.0), "the connector says the same for every prompt"),
    ],
)
def test_a_warning_is_one_line_and_fits_the_cause(tree: Tree, found: Diagnosis, hint: str) -> None:
    line = warning(found, Recipe.from_dict(tree))
    assert found.ignored and hint in line and "\n" not in line
    assert not Diagnosis(0.1, 0.05, 0.02, 1.0, 0.3, 1.0).ignored


def test_rows_differ_in_what_they_say(tree: Tree, tmp_path: Path) -> None:
    tree["objective"] = {"drop_text": 0.5}
    recipe, bridge = made(tree)
    rows = distinct(Mixture(recipe, bridge.hand), 12)
    assert len(rows) == len({row.example.prompt for row in rows}) == 12 and all(row.example.prompt for row in rows)

    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a red square", "target": "red.png"}\n' * 20)
    tree["data"] = [{"source": "jsonl", "path": str(tmp_path / "rows.jsonl")}]
    recipe, bridge = made(tree)
    assert len(distinct(Mixture(recipe, bridge.hand), MOST)) == 0  # one prompt makes no pair
    assert fixed_pairs(recipe, Mixture(recipe, bridge.hand), bridge, Share(4, 1)) is None
