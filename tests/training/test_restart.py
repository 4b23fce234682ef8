"""A run that was stopped, killed, damaged or changed, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.training import lock
from metabridge.training.launch import launch
from metabridge.training.log import read_metrics
from metabridge.training.train import train
from tests.runs import made
from tests.training import killed, poisoned
from tests.training.test_train import assert_same, checkpoint

Tree = dict[str, Any]
COMMAND = [sys.executable, "-m", "metabridge.scripts.cli", "train"]


def finished(out: Path, step: int) -> dict[str, Any]:
    state = checkpoint(out, step)
    del state["seconds"]
    return state


def started(words: list[str], out: Path) -> subprocess.Popen[str]:
    """The command, once it trains."""
    child = subprocess.Popen([*COMMAND, *words, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while child.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.02)
    return child


@pytest.mark.slow
def test_killed_at_three_points(recipe_file: Path, tmp_path: Path) -> None:
    kill(recipe_file, tmp_path, 3)


@pytest.mark.soak
def test_killed_at_fifty_points(recipe_file: Path, tmp_path: Path) -> None:
    kill(recipe_file, tmp_path, 50)


def kill(recipe_file: Path, tmp_path: Path, points: int) -> None:
    recipe = tmp_path / "many.yaml"
    recipe.write_text(Recipe.load(recipe_file, ["train.steps=12"]).dump())
    words = [sys.executable, killed.__file__, str(recipe), str(tmp_path / "runs"), str(points)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{points} kills in ")


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "empty"])
def test_a_damaged_checkpoint_is_put_aside(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    train(*made(tree, steps=6), tmp_path / "whole")
    out = tmp_path / "run"
    train(*made(tree, steps=4), out)
    path = out / "checkpoints/step-000004.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"a flipped bit": bytes(data), "cut short": path.read_bytes()[:-7], "empty": b""}[damage])
    assert train(*made(tree, steps=4), out) == 4
    said = capsys.readouterr().out
    assert f"{path}: damaged, its checksum is wrong; put aside as {path.name}.damaged, step-000002.pt is taken" in said
    assert f"{out}: going on from step 2" in said and path.with_name(f"{path.name}.damaged").exists()
    train(*made(tree, steps=4), tmp_path / "other")
    assert_same(finished(out, 4), finished(tmp_path / "other", 4))


def test_without_a_whole_checkpoint_it_is_one_line(tree: Tree, tmp_path: Path) -> None:
    train(*made(tree), tmp_path / "run")
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoints: no checkpoint is whole \(2 damaged\); bring back a copy, or remove the folder"):
        train(*made(tree), tmp_path / "run")
    assert not list(tmp_path.rglob("*.damaged"))


def test_leftovers_of_a_killed_write_are_removed(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".recipe.yaml.77.tmp").write_text("na")  # killed in its first moment
    train(*made(tree, steps=2), out)
    left = [out / ".metrics.jsonl.77.tmp", out / "checkpoints/.step-000004.pt.77.tmp", out / ".bridge.new"]
    for path in left[:2]:
        path.write_bytes(b"half")
    left[2].mkdir()
    train(*made(tree), out)
    assert [path.name for path in out.rglob(".*")] == [lock.NAME]


def test_keep(tree: Tree, tmp_path: Path) -> None:
    train(*made(tree, steps=5, checkpoint_every=1, keep=3), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [f"step-00000{k}.pt" for k in (3, 4, 5)]


def test_accepted_changes(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2, schedule="constant"), out)
    before = (out / "recipe.yaml").read_text()
    capsys.readouterr()
    changed = {"schedule": "constant", "lr": 0.5, "lr_queries": 0.25, "weight_decay": 0.1, "spike": 0.0}
    assert train(*made(tree, **changed), out, accept_changes=True) == 4
    said = capsys.readouterr().out
    assert "train.lr: was 0.001, is 0.5 from here on" in said and "train.lr_queries: was 0.0, is 0.25 from here on" in said
    assert (out / "recipe.step-000002.yaml").read_text() == before
    assert Recipe.load(out / "recipe.yaml").train.lr == 0.5
    assert [row["lr"] for row in read_metrics(out / "metrics.jsonl")] == [0.001, 0.001, 0.5, 0.5]
    groups = checkpoint(out, 4)["optimizer"]["param_groups"]
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.25, 0.0), (0.5, 0.0), (0.5, 0.1)}
    assert train(*made(tree, **changed), out) == 4  # from here on they are the folder's own


def test_an_average_may_begin_in_the_middle(tree: Tree, tmp_path: Path) -> None:
    """It starts from the weights as they are, not from those that the run began with."""
    out = tmp_path / "run"
    train(*made(tree, steps=2, ema=0), out)
    weights = checkpoint(out, 2)["weights"]
    train(*made(tree, steps=3, ema=0.999, lr=0), out, accept_changes=True)
    assert_same(checkpoint(out, 3)["ema"], weights)


def test_other_weights_are_no_change_that_can_be_accepted(tree: Tree, tmp_path: Path) -> None:
    train(*made(tree, steps=2), tmp_path / "run")
    recipe, bridge = made({**tree, "connector": {**tree["connector"], "queries": 7}})
    with pytest.raises(UserError, match=r"step 2: queries is \(5, 32\) there and \(7, 32\) in this recipe; no --accept-changes can"):
        train(recipe, bridge, tmp_path / "run", accept_changes=True)


HOLDS = "import sys, time; from pathlib import Path; from metabridge.training.lock import locked\n" + (
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


def test_one_run_at_a_time_in_a_folder(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        line = rf"run: process {other.pid} on {os.uname().nodename} trains in it now; wait for it, or give another --out"
        with pytest.raises(UserError, match=line):
            train(*made(tree), out)
        assert not (out / "checkpoints/step-000004.pt").exists()
    finally:
        other.kill()
        other.communicate()
    assert train(*made(tree), out) == 4  # the kernel let go of it


def test_a_stop_in_the_middle_of_a_sheet(recipe_file: Path, tmp_path: Path) -> None:
    """A sheet that takes minutes: SIGTERM leaves it, saves, and exits 0."""
    out = tmp_path / "run"
    child = started([str(recipe_file), "log.sample_every=1", "hand.steps=100000"], out)
    time.sleep(1)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    said, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
    assert time.monotonic() - began < 30
    assert said.splitlines()[-1].startswith(f"stopped at step 2 of 4, saved in {out}; to go on: metabridge train {recipe_file} ")
    assert (out / "checkpoints/step-000002.pt").exists() and not list(out.rglob("*.png")) and not list(out.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_two_processes(recipe_file: Path, tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "run"
    child = started([str(recipe_file), "train.steps=100000", "train.schedule=constant", "--processes", "2"], out)
    child.send_signal(number)
    said, error = child.communicate(timeout=60)
    assert child.returncode == code, error
    done = int(said.splitlines()[-1].split()[3])
    assert (out / f"checkpoints/step-{done:06d}.pt").exists() and not list(out.rglob("*.tmp"))


def trains(launcher: int, processes: int) -> bool:
    """Whether each process answers SIGTERM by itself, as it does from the first step on."""
    below = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    pids = [str(launcher)] if processes == 1 else below
    status = [(Path("/proc") / pid / "status").read_text() for pid in pids]
    caught = [int(text.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1 for text in status]
    return len(pids) == processes and all(caught)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_ctrl_c_does_not_wait_for_the_step(recipe_file: Path, tmp_path: Path, processes: int) -> None:
    words = [*COMMAND, str(recipe_file), "train.batch_size=20000", "train.grad_accum=5000", "--processes", str(processes), "--out", "run"]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while child.poll() is None and not trains(child.pid, processes):
        time.sleep(0.02)
    time.sleep(1)  # into the first step
    child.send_signal(signal.SIGINT)
    time.sleep(1)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 130 and "stopped; to go on: metabridge train" in error


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(recipe_file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file, ["train.schedule=constant"])
    (tmp_path / "four.yaml").write_text(recipe.dump())
    (tmp_path / "two.yaml").write_text(Recipe.load(tmp_path / "four.yaml", ["train.steps=2"]).dump())
    for steps, out in (("four", "whole"), ("two", "parts"), ("four", "parts")):
        assert launch([poisoned.__file__, str(tmp_path / f"{steps}.yaml"), str(tmp_path / out)], 2, cuda=False) == 0
    assert_same(finished(tmp_path / "whole", 4), finished(tmp_path / "parts", 4))
