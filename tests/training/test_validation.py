"""The held-out loss: fixed rows, noise and timesteps, the same for any number of processes, and of no consequence for the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metabridge.adapters import load_pipeline
from metabridge.bridge.objective import sample_sigma
from metabridge.bridge.settings import Objective
from metabridge.training.data import Mixture
from metabridge.training.fixed import BANDS, band_edges, noise_seed
from metabridge.training.launch import launch
from metabridge.training.loader import Share
from metabridge.training.log import read_metrics
from metabridge.training.train import train
from metabridge.training.validation import held_out, validate
from tests.runs import made

Tree = dict[str, Any]
LOSSES = ("validation_loss", *(f"validation_loss_{band}" for band in range(1, BANDS + 1)))


def lines(out: Path, key: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(out / "metrics.jsonl") if key in row]


def test_the_bands_are_quarters_of_what_the_training_draws() -> None:
    assert band_edges(Objective(timesteps="uniform")).tolist() == [0.25, 0.5, 0.75]
    assert band_edges(Objective(timesteps="logit_normal"))[1] == 0.5
    for objective in (Objective(timesteps="uniform", shift=3.0), Objective(timesteps="logit_normal", shift=3.0)):
        sigmas = torch.stack([sample_sigma(torch.Generator().manual_seed(seed), objective) for seed in range(4000)])
        counts = torch.bucketize(sigmas, band_edges(objective)).bincount(minlength=BANDS)
        assert (counts / 4000 - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("objective", [Objective(), Objective(timesteps="uniform", shift=3.0)])
def test_a_row_has_its_band_and_its_seed(objective: Objective) -> None:
    seeds = [noise_seed(0, number, objective) for number in range(16)]
    assert seeds == [noise_seed(0, number, objective) for number in range(16)] and len(set(seeds)) == 16
    sigmas = [sample_sigma(torch.Generator().manual_seed(seed), objective) for seed in seeds]
    assert torch.bucketize(torch.stack(sigmas), band_edges(objective)).tolist() == [number % BANDS for number in range(16)]


def test_rows_in_batches_are_rows_alone(tree: Tree) -> None:
    """However they are cut, the loss is the mean over the rows, of which none is dropped."""
    tree["log"]["validate_rows"] = 10
    tree["objective"] = {"drop_text": 1.0, "distill": 0.5, "think": 0.5}
    recipe, bridge = made(tree)
    mixture = Mixture(recipe, bridge.hand)
    whole, alone = (held_out(recipe, mixture, bridge, share) for share in (Share(10, 1), Share(2, 2)))
    assert [len(batch.noise_seeds) for batch in whole.batches] == [10] and len(alone.batches) == 10
    assert all(batch.captions and all(batch.captions) for batch in whole.batches)
    with torch.no_grad():
        losses = torch.cat([bridge(batch) for batch in alone.batches])
    found = validate(bridge, whole)
    assert found["validation_loss"] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert found["validation_loss_2"] == pytest.approx(float(losses[1::4].mean()), rel=1e-5)
    assert found == validate(bridge, whole)


def test_a_run_validates_the_weights_that_it_saves(tree: Tree, tmp_path: Path) -> None:
    tree["log"] |= {"validate_every": 3, "validate_rows": 8}
    out = tmp_path / "run"
    recipe, bridge = made(tree)
    train(recipe, bridge, out)
    rows = lines(out, "validation_loss")
    assert [row["step"] for row in rows] == [3, 4]  # and at the last step
    saved = load_pipeline(out).bridge
    averaged, last = (validate(one, held_out(recipe, Mixture(recipe, one.hand), one, Share(4, 1))) for one in (saved, bridge))
    assert {key: rows[-1][key] for key in LOSSES} == pytest.approx(averaged, rel=1e-6)
    assert averaged["validation_loss"] != pytest.approx(last["validation_loss"], rel=1e-6)


def test_it_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    plain, watched = tmp_path / "plain", tmp_path / "watched"
    train(*made(tree), plain)
    tree["log"] |= {"validate_every": 1, "validate_rows": 6, "diagnose_every": 2}
    train(*made(tree), watched)
    a, b = (torch.load(out / "checkpoints/step-000004.pt", weights_only=True) for out in (plain, watched))
    for part in ("weights", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    trained = [[row["loss"] for row in lines(out, "loss")] for out in (plain, watched)]
    assert trained[0] == trained[1] and len(lines(watched, "validation_loss")) == 4 and len(lines(watched, "null_gap")) == 2


@pytest.mark.slow
def test_two_processes_measure_what_one_does(recipe_file: Path, tmp_path: Path) -> None:
    """Where the rows do not divide (three for the one, two and a filling one for the other), and where they have shares of the weights."""
    settings = ["train.steps=2", "train.precision=float64", "log.validate_every=1", "log.validate_rows=5", "log.diagnose_every=1"]
    for name, processes, extra in (("one", 1, []), ("two", 2, []), ("sharded", 2, ["train.shard=both"])):
        words = ["-m", "metabridge.scripts.cli", "train", str(recipe_file), *settings, *extra, "--out", str(tmp_path / name)]
        assert launch(words, processes, cuda=False) == 0
    for key in ("validation_loss", "validation_loss_4", "null_gap", "shuffle_gap", "shuffle_gap_error", "condition_rms"):
        one, *others = ([row[key] for row in lines(tmp_path / name, key)] for name in ("one", "two", "sharded"))
        assert len(one) == 2 and all(other == pytest.approx(one, rel=1e-9) for other in others)
