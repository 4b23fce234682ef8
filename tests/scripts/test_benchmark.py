"""A benchmark in the middle of a training: scores of the weights that ship, and a run that can still be stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from metabridge.bridge.errors import UserError
from metabridge.training.log import read_metrics
from metabridge.training.train import train
from tests.runs import made

SETTINGS = ("log.benchmark=flatland", "log.benchmark_every=2", "log.benchmark_limit=1", "train.steps=3")


def scores(run: Path) -> dict[int, float]:
    return {row["step"]: row["score_composition"] for row in read_metrics(run / "metrics.jsonl") if "score_composition" in row}


def test_a_training_scores_what_it_saves(metabridge: Command, recipe_file: Path) -> None:
    code, out, err = metabridge("train", recipe_file, *SETTINGS, "--out", "run")
    assert code == 0 and not err and "step 2: flatland: score_composition 0." in out
    assert list(scores(Path("run"))) == [2, 3]
    at_the_end = json.loads(Path("run/benchmarks/step-000003/result.json").read_text())
    assert at_the_end["scores"]["composition"]["overall"]["value"] == scores(Path("run"))[3] and not at_the_end["baselines"]
    metabridge("eval", "run", "--limit", 1, "--images", 1, "--no-baseline", "-o", "after")
    after = json.loads(Path("after/result.json").read_text())
    assert after["identity"]["model"]["fingerprint"] == at_the_end["identity"]["model"]["fingerprint"]
    # what lies there from weights that are gone is drawn anew
    for step in (2, 3):
        Path(f"run/checkpoints/step-{step:06d}.pt").unlink(missing_ok=True)
    assert metabridge("train", recipe_file, *SETTINGS, "log.benchmark_limit=2", "--out", "run")[0] == 0
    assert json.loads(Path("run/benchmarks/step-000002/result.json").read_text())["scores"]["composition"]["single"]["n"] == 2


@pytest.mark.slow
def test_the_other_process_waits(metabridge: Command, recipe_file: Path) -> None:
    assert metabridge("train", recipe_file, *SETTINGS, "--processes", 2, "--out", "run")[0] == 0
    assert list(scores(Path("run"))) == [2, 3]


def test_a_signal_ends_it_and_the_run_is_saved(tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree["log"] |= {"benchmark": "flatland", "benchmark_every": 2}

    def endless(step: int, pipeline: Any, check: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        pipeline(["a cat"], callback_on_step_end=check)
        raise AssertionError("not left")

    assert train(*made(tree), tmp_path, benchmark=endless) == 3
    assert "step 2: flatland was left, as the run is to stop" in capsys.readouterr().out
    assert (tmp_path / "checkpoints/step-000003.pt").exists() and not scores(tmp_path)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("log.benchmark=flatlnad", "log.benchmark: flatlnad: no such benchmark; did you mean flatland? it may be one of: "),
        (
            "log.benchmark=geneval",
            "log.benchmark: geneval needs data, a judge or a detector, for which a training does not wait; it may be ",
        ),
        ("log.benchmark_limit=101", "log.benchmark_limit: 101 given; flatland has 100 prompts a tag or kind, give as many at most"),
    ],
)
def test_what_cannot_be_is_refused_at_once(metabridge: Command, recipe_file: Path, setting: str, line: str) -> None:
    code, _, err = metabridge("train", recipe_file, "log.benchmark=flatland", setting, "--out", "run")
    assert code == 2 and err.startswith(f"metabridge: {line}") and err.count("\n") == 1 and not Path("run").exists()


def test_a_recipe_that_asks_for_one_is_given_one(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["log"]["benchmark"] = "flatland"
    with pytest.raises(UserError, match=r"log.benchmark: flatland given, and no benchmark handed to train\(\)"):
        train(*made(tree), tmp_path / "run")
