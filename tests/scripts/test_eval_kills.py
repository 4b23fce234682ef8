"""An evaluation that was killed, or cut into shards, ends in the same result.json."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metabridge.adapters import assemble
from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.recipe import Recipe
from tests.eval import families
from tests.eval.judge_server import JudgeServer
from tests.scripts.conftest import Command

SETTINGS = ("--images", "2", "--steps", "1", "--guidance", "1")


@pytest.fixture(scope="module")
def run_folder(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_bridge(assemble(tiny_recipe), folder / "bridge", tiny_recipe, {})
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words of an evaluation whose judge takes its time, so that a kill finds it at work."""
    folder = tmp_path_factory.mktemp("judged")
    suite = families.longtext(folder, prompts=4)

    def answer(seen: families.Seen) -> families.Reply:
        said = families.judge(lambda right: "")(seen)
        text = " ".join(["one", "two", "three"][: 1 + len(seen.text) % 3])
        return said if b'"yes"' in said.body or b'"no"' in said.body else families.says(text, delay=0.01)

    with JudgeServer(answer) as server:
        yield ["--suite", str(suite), "--data", str(folder / "data"), "--judge", server.word, *SETTINGS]


def command(*words: object) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "metabridge.scripts.cli", "eval", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(*words: object) -> None:
    done = command(*words)
    _, err = done.communicate()
    assert done.returncode == 0, err.decode()


def measured(folder: Path) -> dict[str, Any]:
    """The result without the commit: the checkout may move on between two evaluations."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    del result["identity"]["code"]
    return result


@pytest.fixture(scope="module")
def whole(run_folder: Path, judged: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The result of a run that was left alone, and the seconds from its plan to its result."""
    folder = tmp_path_factory.mktemp("whole") / "eval"
    finish(run_folder, *judged, "-o", folder)
    return measured(folder), (folder / "result.json").stat().st_mtime - (folder / "plan.json").stat().st_mtime


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 20))])
def test_killed_at_a_random_point(
    seed: int, run_folder: Path, judged: list[str], whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    result, seconds = whole
    folder, rng = tmp_path / "eval", random.Random(seed)
    killed = command(run_folder, *judged, "-o", folder)
    deadline = time.monotonic() + 120
    while not (folder / "plan.json").exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, seconds))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    finish(run_folder, *judged, "-o", folder)
    assert measured(folder) == result


@pytest.mark.slow
def test_shards_and_processes_draw_the_same(run_folder: Path, metabridge: Command, tmp_path: Path) -> None:
    words = (run_folder, "--limit", 2, *SETTINGS)
    assert metabridge("eval", *words, "-o", "one")[0] == 0
    for shards in (2, 3):
        folder = f"in-{shards}"
        assert metabridge("eval", "plan", *words, "-o", folder)[0] == 0
        for shard in reversed(range(shards)):
            assert metabridge("eval", "generate", folder, "--shard", f"{shard + 1}/{shards}")[0] == 0
        for shard in range(shards):
            assert metabridge("eval", "score", folder, "--shard", f"{shard + 1}/{shards}")[0] == 0
        assert measured(Path(folder)) == measured(Path("one"))
    assert metabridge("eval", *words, "--processes", 2, "-o", "two-processes")[0] == 0
    assert measured(Path("two-processes")) == measured(Path("one"))
    pictures = {path.relative_to("one"): path.read_bytes() for path in Path("one/images").rglob("*.png")}
    assert pictures and all((Path("two-processes") / name).read_bytes() == data for name, data in pictures.items())
