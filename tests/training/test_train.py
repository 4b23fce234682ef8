"""The loop: exact resume, frozen weights, accumulation, and every way a run ends early."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from metabridge.bridge.artifact import content_hash
from metabridge.bridge.errors import UserError
from metabridge.training.log import read_metrics
from metabridge.training.train import train
from tests.runs import made

Tree = dict[str, Any]


def interrupt(number: int, at: int) -> Any:
    """A callback that sends this process a signal after a step."""

    def callback(step: int, bridge: Any) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    return callback


def checkpoint(out: Path, step: int) -> dict[str, Any]:
    return torch.load(out / f"checkpoints/step-{step:06d}.pt", weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def test_two_and_two_steps_are_four_bit_for_bit(tree: Tree, tmp_path: Path) -> None:
    tree["log"]["every"] = 3  # a line of metrics spans the interruption
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(*made(tree), whole) == 4
    # one signal comes in the middle of step 2, so that step is still finished
    assert train(*made(tree), parts, [interrupt(signal.SIGINT, 1)]) == 2
    assert train(*made(tree), parts) == 4

    a, b = checkpoint(whole, 4), checkpoint(parts, 4)
    assert a.pop("seconds") > 0 and b.pop("seconds") > 0
    assert_same(a, b)
    assert_same(load_file(whole / "bridge/bridge.safetensors"), load_file(parts / "bridge/bridge.safetensors"))
    lines = [
        [{k: row[k] for k in ("step", "loss", "grad_norm", "lr")} for row in read_metrics(out / "metrics.jsonl")] for out in (whole, parts)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 1


def test_frozen_weights_are_bit_identical_after_training(tree: Tree, tmp_path: Path) -> None:
    recipe, bridge = made(tree, weight_decay=0.1)
    frozen, trained = content_hash(bridge.frozen()), content_hash(bridge.trained())
    train(recipe, bridge, tmp_path / "run")
    assert content_hash(bridge.frozen()) == frozen
    assert content_hash(bridge.trained()) != trained


def test_accumulation_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    gradients = []
    for parts in (1, 2, 4):
        recipe, bridge = made(tree, grad_accum=parts, clip=0, steps=1)
        train(recipe, bridge, tmp_path / str(parts))
        gradients.append(torch.cat([tensor.grad.flatten() for tensor in bridge.trained().values()]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_sigterm_saves_too(tree: Tree, tmp_path: Path) -> None:
    assert train(*made(tree, checkpoint_every=0), tmp_path / "run", [interrupt(signal.SIGTERM, 2)]) == 3
    assert checkpoint(tmp_path / "run", 3)["step"] == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_stays_as_it_is(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    before = (out / "bridge/bridge.safetensors").read_bytes()
    assert train(*made(tree, steps=2), out) == 2
    assert "finished already at step 2" in capsys.readouterr().out
    assert (out / "bridge/bridge.safetensors").read_bytes() == before


def test_nan_names_the_step_and_keeps_the_checkpoint(tree: Tree, tmp_path: Path) -> None:
    def poison(step: int, bridge: Any) -> None:
        if step == 3:
            bridge.queries.data.fill_(torch.nan)

    with pytest.raises(UserError) as raised:
        train(*made(tree), tmp_path / "run", [poison])
    kept = tmp_path / "run/checkpoints/step-000002.pt"
    assert str(raised.value) == f"step 4: the loss is nan; {kept} is kept; lower train.lr or train.clip"
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint(tmp_path / "run", 2)["weights"].values())
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "run/bridge/bridge.safetensors").values())


def test_full_disk_is_one_line_and_loses_nothing(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    kept = out / "checkpoints/step-000002.pt"
    before = kept.read_bytes(), (out / "bridge/bridge.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[0]) // 2, limits[1]))
    try:
        with pytest.raises(UserError) as raised:
            train(*made(tree), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the file is too large for this disk or its limit" in str(raised.value) and f"{kept} is kept" in str(raised.value)
    assert (kept.read_bytes(), (out / "bridge/bridge.safetensors").read_bytes()) == before
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nothing half-written
    assert train(*made(tree), out) == 4  # and once there is room, it goes on


def test_unwritable_run_folder(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file.*cannot be written \(a part of the path is no folder\); nothing was saved; give another --out"
    ):
        train(*made(tree), tmp_path / "file/run")


def test_a_folder_of_something_else_is_refused(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty, and no run folder"):
        train(*made(tree), tmp_path)


def test_other_settings_are_refused(tree: Tree, tmp_path: Path) -> None:
    train(*made(tree, steps=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"holds a run with train.lr=0.001, this one has 0.1; use the same, or another --out"):
        train(*made(tree, lr=0.1), tmp_path / "run")
    assert train(*made(tree, steps=2), tmp_path / "run") == 2  # more steps are no other run


def test_run_folder(tree: Tree, tmp_path: Path) -> None:
    tree["log"] |= {"sample_every": 1, "wandb": "offline"}
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    names = {str(path.relative_to(out)) for path in out.rglob("*") if "wandb" not in path.parts}
    assert {"recipe.yaml", "metrics.jsonl", "samples/step-000001.png", "samples/step-000002.png", "bridge/bridge.json"} <= names
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 2 and set(row) == {"step", "loss", "grad_norm", "lr", "seconds", "rows_per_second"}
    assert list(out.glob("wandb/offline-run-*"))


def test_bfloat16_and_no_ema(tree: Tree, tmp_path: Path) -> None:
    recipe, bridge = made(tree, precision="bfloat16", ema=0, steps=2)
    assert train(recipe, bridge, tmp_path / "run") == 2
    state = checkpoint(tmp_path / "run", 2)
    assert state["ema"] is None and all(tensor.dtype == torch.float32 for tensor in state["weights"].values())
    assert_same(load_file(tmp_path / "run/bridge/bridge.safetensors"), state["weights"])
