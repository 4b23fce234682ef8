"""`metabridge eval` over a tiny bridge of the real classes: the whole way, a kill in the middle, and each error's line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.adapters import assemble
from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.recipe import Recipe
from metabridge.scripts import cli

OPTIONS = ["--limit", "1", "--images", "1", "--steps", "1", "--guidance", "1"]


@pytest.fixture(scope="module")
def run_folder(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_bridge(assemble(tiny_recipe), folder / "bridge", tiny_recipe, {})
    return folder


@pytest.fixture(scope="module")
def evaluated(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval") / "whole"
    assert main("eval", str(run_folder), *OPTIONS, "-o", str(folder)) == 0
    return folder


def main(*words: str) -> int:
    """The command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["metabridge", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
            raise SystemExit(0)
    return int(caught.value.code or 0)


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("metabridge: ")


def measured(folder: Path) -> dict[str, Any]:
    """The result without the commit: the checkout may move on between two evaluations."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    del result["identity"]["code"]
    return result


def test_one_command_draws_scores_and_reports(evaluated: Path) -> None:
    result = json.loads((evaluated / "result.json").read_text())
    tags = {"overall", "single", "two_object", "counting", "colors", "position", "color_attr"}
    assert result["scores"]["composition"].keys() == result["baselines"]["hand_text_encoder"]["composition"].keys() == tags
    assert result["scores"]["reasoning"].keys() == {"implicit", "think"}
    cell = result["scores"]["reasoning"]["think"]["two_hop"]
    assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
    identity = result["identity"]
    assert identity["benchmark"]["name"] == "flatland" and len(identity["benchmark"]["data_sha256"]) == 64
    assert identity["model"]["brain"].keys() >= {"repo", "revision", "fingerprint"}
    assert identity["generation"]["num_inference_steps"] == 1 and identity["code"]["version"]
    report = (evaluated / "report.html").read_text()
    assert "data:image/png;base64," in report and "<svg" in report
    assert "http" not in report.replace("http://www.w3.org", "")  # self-contained
    with Image.open(evaluated / "sheets" / "think-negation.png") as sheet:
        assert sheet.width > 200


def test_stages_one_by_one_give_the_same_result(
    run_folder: Path, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "staged [x]"
    assert main("eval", "plan", str(run_folder), *OPTIONS, "-o", str(folder)) == 0
    assert [path.name for path in folder.iterdir()] == ["plan.json"]
    said = {}
    for stage in ("generate", "score", "report"):
        capsys.readouterr()
        assert main("eval", stage, str(folder)) == 0
        said[stage] = capsys.readouterr().out
    assert "pictures (ok " in said["score"] and f"infra_error 0): 0 right. Result: {folder / 'result.json'}" in said["score"]
    assert str(folder / "report.html") in said["report"]  # and not taken for markup
    assert measured(folder) == measured(evaluated)


def test_kill_and_resume_give_the_same_result(run_folder: Path, evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    words = ["eval", str(run_folder), *OPTIONS, "-o", str(folder)]
    command = subprocess.Popen(
        [sys.executable, "-m", "metabridge.scripts.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (folder / "drawn.jsonl").exists() and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(command.pid, signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    assert main(*words) == 0
    assert measured(folder) == measured(evaluated)


def test_compare(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("eval", "compare", str(evaluated), str(evaluated)) == 0
    assert "+0.00 [+.00 +.00]" in capsys.readouterr().out


def test_incomplete_is_said(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "part"
    assert main("eval", str(run_folder), *OPTIONS, "--no-baseline", "-o", str(folder)) == 0
    (folder / "images/bridge/single/single-000-0.png").unlink()
    capsys.readouterr()
    for stage in ("score", "report"):
        assert main("eval", stage, str(folder)) == 0
    shown = capsys.readouterr().out
    assert "n/a (1 of 6 unscored)" in shown and "n/a (1 of 1 unscored)" in shown
    assert "Run the same command again" in shown


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("eval", "list") == 0
    assert "flatland" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing", "-o", "x"], "nothing: no such folder and no shipped bridge; "),
        (["x", "y"], "x y given; write metabridge eval BRIDGE -o DIR"),
        (["score", "x", "--limit", "3"], "--limit: has no effect on score; the folder's plan.json says what is drawn"),
        (["score", "x", "--suite", "flatland"], "--suite: has no effect on score; "),
        (["x", "--limit", "many"], "--limit many: give a number of prompts, as 20, or one of a part, tag or kind, as reasoning=8"),
        (["score", "absent"], "absent: no plan.json there; `metabridge eval BRIDGE -o absent` starts an evaluation"),
        (["compare", "x"], "x given; write metabridge eval compare DIR DIR"),
        (["x", "--suite", "genevl"], "genevl: no such benchmark; did you mean geneval? it may be one of: "),
    ],
)
def test_error_lines(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error(capsys, "eval", *words).startswith(message)


def test_other_settings_in_the_same_folder(run_folder: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error(capsys, "eval", str(run_folder), *OPTIONS[:-1], "3", "-o", str(evaluated))
    assert "holds another evaluation: its guidance_scale is 1.0, asked for is 3.0; give another folder with -o" in line


def test_full_disk(run_folder: Path, tmp_path: Path) -> None:
    """Files may not grow beyond a kilobyte: one line, exit code 2, and no half-written file."""
    words = ["eval", str(run_folder), *OPTIONS, "-o", str(tmp_path / "full")]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); from metabridge.scripts.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *words], capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("then run the same command again: what is done stays done")
    assert "plan.json: cannot be written (File too large)" in done.stderr
    assert not any((tmp_path / "full").iterdir())
