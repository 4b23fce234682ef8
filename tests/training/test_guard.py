"""Steps that would harm: real NaN pixels, on one process and on two, beside the same training written out plainly."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from metabridge.bridge.errors import UserError
from metabridge.bridge.settings import Train
from metabridge.training.guard import ENOUGH, ROLLBACKS, STRETCH, WINDOW, Guard
from metabridge.training.launch import launch
from metabridge.training.log import read_metrics
from metabridge.training.optim import adamw
from metabridge.training.train import train
from tests.runs import made
from tests.training import poisoned
from tests.training.test_train import assert_same, checkpoint, interrupt

Tree = dict[str, Any]


def assert_is(state: dict[str, Any], expected: dict[str, Any], bridge: Any) -> None:
    """Weights, EMA and moments of a checkpoint, bit for bit."""
    assert_same(state["weights"], expected["weights"])
    assert_same(state["ema"], expected["ema"])
    names = {id(tensor): name for name, tensor in bridge.trained().items()}
    groups = adamw(bridge, Train()).param_groups
    order = [names[id(parameter)] for group in groups for parameter in group["params"]]
    for index, name in enumerate(order):
        assert_same(state["optimizer"]["state"][index], expected["moments"][name])


def test_a_bad_step_is_left_out(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"steps": 6, "weight_decay": 0.1}
    recipe, bridge = made(tree, **settings)
    poisoned.poison(recipe, bridge, [2])
    assert train(recipe, bridge, tmp_path / "run") == 6
    assert_is(checkpoint(tmp_path / "run", 6), poisoned.plainly(*made(tree, **settings), [0, 1, 3, 4, 5]), bridge)
    assert "step 3: the loss is nan (loss nan); skipped" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [row.get("skipped", 0) for row in rows] == [0, 0, 1, 1, 1, 1]
    assert rows[2]["loss"] is None and all(math.isfinite(row["loss"]) for row in rows if row["step"] != 3)


def test_without_a_bad_step_nothing_differs_from_plain_torch(tree: Tree, tmp_path: Path) -> None:
    recipe, bridge = made(tree)
    train(recipe, bridge, tmp_path / "run")
    assert_is(checkpoint(tmp_path / "run", 4), poisoned.plainly(*made(tree), [0, 1, 2, 3]), bridge)


BACK = {"steps": 9, "max_skips": 2, "checkpoint_every": 2}  # steps 5 and 6 (from 0) are bad: back to what 4 steps had made


def test_too_many_bad_steps_lead_back(tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, bridge = made(tree, **BACK)
    poisoned.poison(recipe, bridge, [5, 6])
    assert train(recipe, bridge, tmp_path / "run") == 9
    expected = poisoned.plainly(*made(tree, **BACK), [0, 1, 2, 3, "keep", 4, "back", 7, 8])
    state = checkpoint(tmp_path / "run", 9)
    assert_is(state, expected, bridge)
    assert "step 7: weights, optimizer and EMA are those of step 4 again; the data goes on" in capsys.readouterr().out
    assert (state["guard"]["skipped"], state["guard"]["rollbacks"], state["guard"]["skipped_in_row"]) == (2, 1, 0)
    assert read_metrics(tmp_path / "run/metrics.jsonl")[-1]["rollbacks"] == 1


@pytest.mark.parametrize("at", [5, 6, 7])
def test_a_stop_among_bad_steps_changes_nothing(tree: Tree, tmp_path: Path, at: int) -> None:
    """Also where the stop saves weights that a run without it would not go back to."""
    states = []
    for name in ("whole", "parts"):
        for callbacks in ([interrupt(signal.SIGTERM, at - 1)], []) if name == "parts" else ([],):
            recipe, bridge = made(tree, **BACK, keep=1)
            poisoned.poison(recipe, bridge, [5, 6])
            train(recipe, bridge, tmp_path / name, callbacks)
        states.append(checkpoint(tmp_path / name, 9))
        states[-1].pop("seconds")
    assert_same(*states)


def test_a_stop_at_a_due_step_that_is_skipped_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    """The checkpoint is owed then, and made at the next good step: what a run goes back to may hang on it."""
    states = []
    for name in ("whole", "parts"):
        for callbacks in ([interrupt(signal.SIGTERM, 3)], []) if name == "parts" else ([],):
            recipe, bridge = made(tree, **BACK)  # a checkpoint every second step
            poisoned.poison(recipe, bridge, [3, 5, 6])
            train(recipe, bridge, tmp_path / name, callbacks)
        states.append(checkpoint(tmp_path / name, 9))
        states[-1].pop("seconds")
    assert states[0]["guard"]["rollbacks"] == 1
    assert_same(*states)


def test_it_gives_up_in_one_line(tree: Tree, tmp_path: Path) -> None:
    recipe, bridge = made(tree, steps=40, max_skips=2, checkpoint_every=2)
    poisoned.poison(recipe, bridge, range(3, 40))
    with pytest.raises(UserError) as raised:
        train(recipe, bridge, tmp_path / "run")
    path = tmp_path / "run/checkpoints/step-000002.pt"
    assert str(raised.value) == (
        f"step 11: the loss is nan (bad steps in a row: 2); going back to {path} {ROLLBACKS} times did not help; "
        "look at the rows of these steps, lower train.lr or train.clip"
    )
    assert path.exists()


def test_bad_from_the_start_is_one_line(tree: Tree, tmp_path: Path) -> None:
    recipe, bridge = made(tree, steps=40)
    poisoned.poison(recipe, bridge, range(40))
    with pytest.raises(UserError) as raised:
        train(recipe, bridge, tmp_path / "run")
    assert str(raised.value) == (
        "step 5: the loss is nan (bad steps in a row: 5); there was no checkpoint yet; "
        "look at the rows of these steps, lower train.lr or train.clip"
    )


@pytest.mark.slow
def test_two_processes_skip_and_go_back_alike(tree: Tree, tmp_path: Path) -> None:
    """The bad row is the first process's alone; in float64 the two are one."""
    tree["train"] |= BACK | {"precision": "float64"}
    recipe, bridge = made(tree)
    poisoned.poison(recipe, bridge, [1, 5, 6])
    train(recipe, bridge, tmp_path / "one")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree | {"name": recipe.name}))
    assert launch([poisoned.__file__, str(tmp_path / "recipe.yaml"), str(tmp_path / "two"), "1", "5", "6"], 2, cuda=False) == 0
    one, two = (checkpoint(tmp_path / name, 9) for name in ("one", "two"))
    for name, tensor in one["weights"].items():
        assert (tensor - two["weights"][name]).norm() <= 1e-9 * tensor.norm()
    assert [(s["guard"]["skipped"], s["guard"]["rollbacks"]) for s in (one, two)] == [(3, 1)] * 2


def test_a_spike_is_measured_by_the_median_of_good_norms() -> None:
    settings = Train(spike=10)
    guard = Guard()
    assert [guard.judge(1.0, norm, settings) for norm in (1.0, 500.0)] == [None, None]  # too few to know what is usual
    for _ in range(ENOUGH):
        assert guard.judge(1.0, 2.0, settings) is None
    assert guard.judge(1.0, 19.9, settings) is None
    assert guard.judge(1.0, 20.1, settings) == "the norm of the gradient is 20.1, 10 times the usual 2"
    assert guard.judge(1.0, math.inf, settings) == "the norm of the gradient is inf"
    assert guard.skipped == guard.skipped_in_row == 2 and 20.1 not in guard.norms
    assert guard.judge(1.0, 20.1, Train(spike=0)) is None and guard.skipped_in_row == 0
    for _ in range(2 * WINDOW):
        guard.judge(1.0, 5.0, settings)
    assert guard.norms == [5.0] * WINDOW


def test_a_good_stretch_forgets_rollbacks() -> None:
    guard = Guard(rollbacks=2, rollbacks_in_row=2)
    for _ in range(STRETCH - 1):
        guard.judge(1.0, 1.0, Train())
    assert guard.rollbacks_in_row == 2
    guard.judge(1.0, 1.0, Train())
    assert (guard.rollbacks_in_row, guard.rollbacks) == (0, 2)


def test_its_state_goes_through_a_checkpoint() -> None:
    guard = Guard()
    for norm in (1.0, math.nan, 3.0):
        guard.judge(1.0, norm, Train())
    assert Guard(**guard.state()) == guard
    assert torch.tensor(guard.norms).tolist() == [1.0, 3.0]
