"""The loop: exact resume, frozen weights, accumulation, and every way a run ends early."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from metabridge.bridge.artifact import content_hash, read_artifact, save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import write_whole
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
    assert lines[0] == lines[1] and [row["step"] for row in lines[0]] == [3, 4]  # the last step has its line, due or not


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


@pytest.mark.parametrize("damage", ["gone", "old"])
def test_a_finished_run_without_its_bridge_writes_it_again(tree: Tree, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    whole = (out / "bridge/bridge.safetensors").read_bytes()
    metrics = read_artifact(out / "bridge").config["metrics"]
    if damage == "gone":
        shutil.rmtree(out / "bridge")
    else:
        recipe, bridge = made(tree, steps=2)
        save_bridge(bridge, out / "bridge", recipe, {"steps": 1})
    assert train(*made(tree, steps=2), out) == 2
    assert (out / "bridge/bridge.safetensors").read_bytes() == whole
    assert read_artifact(out / "bridge").config["metrics"] == metrics


def test_a_step_is_done_when_its_bridge_is_saved(tree: Tree, tmp_path: Path) -> None:
    """Where the last bridge cannot be written, the run is not finished, and the same command goes on."""
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    (out / ".bridge.new").write_text("in the way")
    with pytest.raises(UserError, match="the bridge could not be saved"):
        train(*made(tree), out)
    (out / ".bridge.new").unlink(missing_ok=True)
    assert not (out / "checkpoints/step-000004.pt").exists()
    assert train(*made(tree), out) == 4
    assert read_artifact(out / "bridge").config["metrics"]["steps"] == 4


@pytest.mark.parametrize("part", ["brain", "hand"])
def test_another_base_under_the_same_name_is_refused(tree: Tree, tmp_path: Path, brain_folder: Path, hand_folder: Path, part: str) -> None:
    folder = shutil.copytree({"brain": brain_folder, "hand": hand_folder}[part], tmp_path / part)
    tree[part]["repo"] = str(folder)
    train(*made(tree, steps=2), tmp_path / "run")
    shutil.rmtree(folder)
    {"brain": tiny.make_brain, "hand": tiny.make_hand}[part](folder, seed=1)
    with pytest.raises(UserError, match=rf"run: holds a run on the {part} .*{part}@main \(fingerprint .*give the {part} it began with"):
        train(*made(tree), tmp_path / "run")


@pytest.mark.parametrize(
    ("prompt", "line"), [("  ", "prompt: empty"), ("a <|im_end|>", "holds the brain's special token"), ("cat " * 600, "prompt: too long")]
)
def test_a_bad_prompt_for_the_sheet_is_heard_of_before_the_first_step(tree: Tree, tmp_path: Path, prompt: str, line: str) -> None:
    tree["log"] |= {"sample_every": 2, "prompts": ["a cat", prompt]}
    with pytest.raises(UserError, match=f"log.prompts: .*{line}"):
        train(*made(tree), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_lines_of_metrics_nothing_piles_up(tree: Tree, tmp_path: Path) -> None:
    tree["log"]["every"] = 0
    train(*made(tree), tmp_path / "run")
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert len(checkpoint(tmp_path / "run", 4)["window"]) == 1


def test_nan_names_the_step_and_keeps_the_checkpoint(tree: Tree, tmp_path: Path) -> None:
    def poison(step: int, bridge: Any) -> None:
        if step == 3:
            bridge.queries.data.fill_(torch.nan)

    with pytest.raises(UserError) as raised:
        train(*made(tree), tmp_path / "run", [poison])
    kept = tmp_path / "run/checkpoints/step-000002.pt"
    assert str(raised.value) == f"step 4: weights are infinite or NaN, so they are not saved; {kept} is kept; lower train.lr"
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint(tmp_path / "run", 2)["weights"].values())
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "run/bridge/bridge.safetensors").values())


def test_full_disk_is_one_line_and_loses_nothing(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(*made(tree, steps=2), out)
    kept = out / "checkpoints/step-000002.pt"
    before = kept.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(UserError) as raised:
            train(*made(tree), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the file is too large for this disk or its limit" in str(raised.value) and f"{kept} is kept" in str(raised.value)
    assert kept.read_bytes() == before
    assert read_artifact(out / "bridge").config["metrics"]["steps"] in (2, 4)  # the bridge comes first, and it is whole
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nothing half-written
    assert train(*made(tree), out) == 4  # and once there is room, it goes on


def test_unwritable_run_folder(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file.*cannot be written \(a part of the path is no folder\); nothing was saved; give another --out"
    ):
        train(*made(tree), tmp_path / "file/run")
    with pytest.raises(UserError, match=r"cannot be written \(the name is too long\)"):
        train(*made(tree), tmp_path / ("x" * 300))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").mkdir()
    write_whole(tmp_path / "run/recipe.yaml", made(tree)[0].dump().encode())
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written \(a folder is in its place\)"):
        train(*made(tree), tmp_path / "run")


def test_a_folder_of_something_else_is_refused(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty, and no run folder"):
        train(*made(tree), tmp_path)


def test_other_settings_are_refused(tree: Tree, tmp_path: Path) -> None:
    train(*made(tree, steps=1), tmp_path / "run")
    with pytest.raises(UserError) as raised:
        train(*made(tree, lr=0.1, clip=2), tmp_path / "run")
    assert str(raised.value) == (
        f"{tmp_path}/run: holds a run with train.clip=1.0 (here 2.0), train.lr=0.001 (here 0.1); "
        "use the same, give another --out, or go on with these by --accept-changes"
    )
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
