"""Stages of one recipe: each starts from the last one's weights, and the whole resumes bit for bit wherever it was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from metabridge.adapters import assemble, load_pipeline
from metabridge.bridge.artifact import content_hash, read_artifact
from metabridge.bridge.errors import UserError
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.cli import app
from metabridge.training.log import read_metrics
from metabridge.training.stages import Stopped, train_stages
from metabridge.training.stop import Stop
from metabridge.training.train import train

Tree = dict[str, Any]
STAGES: list[Tree] = [
    {"name": "connector", "train": {"steps": 3}},
    {"name": "lora", "hand": {"train": "lora", "lora_rank": 2}, "train.steps": 2, "objective.distill": 0.5, "train.precision": "bfloat16"},
]


def staged(tree: Tree, stages: Sequence[Tree] = STAGES) -> Recipe:
    return Recipe.from_dict({**tree, "stages": list(stages)})


def build(recipe: Recipe, init: Path | None) -> Bridge:
    return assemble(recipe, init=init)


def run(recipe: Recipe, out: Path, stop_at: tuple[str, int] | None = None, build: Any = build, **options: Any) -> Stopped | None:
    """`stop_at`: a stage, and the step of it after which this process gets SIGINT."""
    stop = Stop()

    def interrupted(recipe: Recipe, bridge: Bridge, folder: Path, callbacks: Sequence[Callable[[int, Bridge], None]]) -> int:
        def interrupt(step: int, bridge: Bridge) -> None:
            if (folder.name, step) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)

        return train(recipe, bridge, folder, [*callbacks, interrupt], stop)

    return train_stages(recipe, out, build, interrupted, stop, **options)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


def lines(out: Path) -> list[tuple[float, ...]]:
    return [tuple(row[key] for key in ("step", "stage", "loss", "grad_norm", "lr")) for row in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, brain_folder: Path, hand_folder: Path) -> tuple[Tree, Path]:
    """A tree, and the folder of its two stages trained without interruption."""
    from tests.runs import TRAIN, recipe_tree

    tree = recipe_tree(brain_folder, hand_folder) | {"train": dict(TRAIN), "log": {"every": 1, "sample_every": 0}}
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(staged(tree), out) is None
    return tree, out


def test_a_stage_starts_from_the_last_ones_averaged_weights(whole: tuple[Tree, Path]) -> None:
    tree, out = whole
    first, second = (read_artifact(out / "stages" / name / "bridge") for name in ("1-connector", "2-lora"))
    averaged = torch.load(out / "stages/1-connector/checkpoints/step-000003.pt", weights_only=True)["ema"]
    assert all(torch.equal(tensor, averaged[name]) for name, tensor in first.tensors.items())
    assert second.config["init"] == {"path": "../../1-connector/bridge", "content_hash": content_hash(first.tensors)}
    begun = assemble(staged(tree).runs()[1], init=out / "stages/1-connector/bridge").trained()
    assert all(torch.equal(begun[name], tensor) for name, tensor in first.tensors.items())
    fresh = {name: tensor for name, tensor in begun.items() if name not in first.tensors}
    assert fresh and all("lora_" in name for name in fresh)
    assert not any(tensor.any() for name, tensor in fresh.items() if "lora_B" in name)
    assert not first.tensors.keys() - second.tensors.keys()
    assert all(not torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())  # both go on learning


def test_what_lies_in_the_folder(whole: tuple[Tree, Path]) -> None:
    tree, out = whole
    assert {path.name for path in out.iterdir()} >= {"recipe.yaml", "metrics.jsonl", "stages", "bridge"}
    assert Recipe.load(out / "recipe.yaml") == staged(tree)
    for name, run in zip(("1-connector", "2-lora"), staged(tree).runs(), strict=True):
        assert Recipe.load(out / "stages" / name / "recipe.yaml") == run
    copied, last = read_artifact(out / "bridge"), read_artifact(out / "stages/2-lora/bridge")
    assert content_hash(copied.tensors) == content_hash(last.tensors)
    assert copied.config["init"] == {**last.config["init"], "path": "../stages/1-connector/bridge"}
    assert copied.recipe == last.recipe and copied.config["metrics"] == last.config["metrics"]
    one, two = (load_pipeline(path)("a red cat", seeds=[1], output_type="latent").images[0] for path in (out, out / "stages/2-lora"))
    assert torch.equal(one, two)
    rows = read_metrics(out / "metrics.jsonl")
    assert [(row["step"], row["stage"]) for row in rows] == [(k, "1-connector" if k <= 3 else "2-lora") for k in range(1, 6)]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


@pytest.mark.parametrize("stop_at", [("1-connector", 1), ("1-connector", 3), ("2-lora", 1), None])
def test_stopped_anywhere_it_ends_as_if_it_had_not_been(whole: tuple[Tree, Path], tmp_path: Path, stop_at: tuple[str, int] | None) -> None:
    """By a signal within a stage or in its last step, and by a kill between two."""
    tree, out = whole
    if stop_at:
        stopped = run(staged(tree), tmp_path / "run", stop_at)
        if stop_at == ("2-lora", 1):  # the step after it is the last of all
            assert stopped is None
        else:
            assert stopped and (stopped.folder.name, stopped.done) == ("1-connector", min(3, stop_at[1] + 1))
    else:
        with pytest.raises(KeyboardInterrupt):
            run(staged(tree), tmp_path / "run", build=killed_before_the_second)
        assert [path.name for path in (tmp_path / "run/stages").iterdir()] == ["1-connector"]
        assert content_hash(read_artifact(tmp_path / "run/bridge").tensors) == content_hash(
            read_artifact(out / "stages/1-connector/bridge").tensors
        )
    run(staged(tree), tmp_path / "run")
    assert files(tmp_path / "run") == files(out)
    assert lines(tmp_path / "run") == lines(out)


def killed_before_the_second(recipe: Recipe, init: Path | None) -> Bridge:
    if init is not None:
        raise KeyboardInterrupt
    return build(recipe, init)


def test_finished_stages_are_not_built_again(whole: tuple[Tree, Path], tmp_path: Path) -> None:
    tree, out = whole
    copy = shutil.copytree(out, tmp_path / "run")
    built: list[str] = []

    def counted(recipe: Recipe, init: Path | None) -> Bridge:
        built.append(recipe.name)
        return build(recipe, init)

    assert run(staged(tree), copy, build=counted) is None and built == []
    assert files(copy) == files(out)
    added = {"name": "more", "hand": {"train": "lora", "lora_rank": 2}, "train": {"steps": 1}}
    assert run(staged(tree, [*STAGES, added]), copy, build=counted) is None and built == ["tiny-more"]
    assert content_hash(read_artifact(copy / "bridge").tensors) == content_hash(read_artifact(copy / "stages/3-more/bridge").tensors)
    assert Recipe.load(copy / "recipe.yaml").stages[-1].name == "more"


def test_what_does_not_go_together_is_one_line(whole: tuple[Tree, Path], tmp_path: Path) -> None:
    tree, out = whole
    copy = shutil.copytree(out, tmp_path / "run")
    changed = [STAGES[0] | {"train": {"steps": 3, "lr": 0.1}}, STAGES[1]]
    with pytest.raises(UserError, match=r"1-connector: holds a run with train.lr=0.001 \(here 0.1\)"):
        run(staged(tree, changed), copy)
    with pytest.raises(UserError, match=r"1-connector: finished already \(train.lr: was 0.001, is 0.1 .*or remove that folder"):
        run(staged(tree, changed), copy, accept_changes=True)
    with pytest.raises(UserError, match=r"run: holds a stage 2-lora, this recipe has 1-connector, 2-hand; give another --out"):
        run(staged(tree, [STAGES[0], STAGES[1] | {"name": "hand"}]), copy)
    assert Recipe.load(copy / "recipe.yaml") == staged(tree)
    longer = [STAGES[0] | {"train": {"steps": 4}}, STAGES[1]]
    with pytest.raises(UserError, match=r"2-lora: began from other weights than .*1-connector/bridge holds now; remove that folder"):
        run(staged(tree, longer), copy)
    plain = Recipe.from_dict({**tree, "train": {**tree["train"], "steps": 1}})
    train(plain, assemble(plain), tmp_path / "plain")
    with pytest.raises(UserError, match=r"plain: holds a run without stages; give another --out"):
        run(staged(tree), tmp_path / "plain")
    with pytest.raises(UserError, match=r"run: holds a run with .*stages.0.name=connector"):
        train(plain, assemble(plain), copy)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty, and no run folder"):
        run(staged(tree), tmp_path)


def test_the_command(tree: Tree, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**tree, "train": {**tree["train"], "steps": 1}, "stages": [{"name": "one"}, STAGES[1]]}))
    command = ["train", str(file), "stages.1.train.steps=1", "train.lr=2e-3", "--out", str(tmp_path / "run")]
    plan = CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False)
    assert plan.exit_code == 0 and not (tmp_path / "run").exists()
    assert "stage 1-one\n" in plan.output and "stage 2-lora, from the weights of" in plan.output
    assert plan.output.count("Nothing was trained (--dry-run)") == 2 and "lora_rank: 2" in plan.output
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "tiny-lora: starts from the weights of" in done.output and "run/bridge holds the trained bridge" in done.output
    assert [row["lr"] for row in read_metrics(tmp_path / "run/metrics.jsonl")] == [2e-3, 2e-3]
    assert any("lora_" in name for name in load_file(tmp_path / "run/bridge/bridge.safetensors"))


def test_a_run_goes_on_only_from_the_start_that_it_had(tree: Tree, tmp_path: Path) -> None:
    def begun(steps: int) -> int:
        recipe = Recipe.from_dict({**tree, "train": {**tree["train"], "steps": steps}, "init": str(tmp_path / "start")})
        return train(recipe, assemble(recipe), tmp_path / "run")

    plain = Recipe.from_dict({**tree, "train": {**tree["train"], "steps": 1}})
    train(plain, assemble(plain), tmp_path / "start")
    assert (begun(1), begun(2)) == (1, 2)
    other = Recipe.from_dict({**tree, "train": {**tree["train"], "steps": 2}})
    train(other, assemble(other), tmp_path / "start")  # a step more
    with pytest.raises(
        UserError, match=r"run: holds a run that started from .*start \(.*this one starts from .*start \(.*give another --out"
    ):
        begun(3)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages.1.trian.steps=1", "stages.1.trian: no such setting; did you mean train?"),
        ("stages.1.train.lrr=1", "stages.1.train.lrr: no such setting; did you mean lr?"),
        ("stages.1.train.ema=4", "stages.1.train.ema: 4.0 given; it is"),
        ("stages.1.stages=[]", "stages.1.stages: no such setting"),
        ("stages.1.init=flatland", "stages.1.init: no such setting"),
        ("stages.2.train.lr=1", "override stages.2.train.lr: '2' is no position in a list of 2"),
        ("stages.1.data.1.weight=2", "stages.1.data: '1' is no position in a list of 1"),
        ("stages.1.name=a/b", "stages.1.name: 'a/b' given; it names a folder"),
        ("stages.1.connector.queries=3", "stages.1.connector: stages hand one connector on, it cannot change"),
        ("stages.1.hand.repo=other", "stages.1.hand.repo: other given, but the first stage has"),
        ("stages.1.brain.dtype=bfloat16", "stages.1.brain.dtype: bfloat16 given, but the first stage has nothing"),
        ("stages.0.hand.train=full", "stages.1.hand.train: lora given, but the stage before trained the hand with full"),
        ("stages=[]", "stages: give a list of stages, as"),
        ("stages=[lora]", "stages.0: give a mapping with a name, as in"),
        ("stages=[{name: a, train.lr: 1, train: {lr: 2}}]", "stages.0.train.lr: given twice"),
    ],
)
def test_a_mistake_in_a_stage_is_named_with_its_path(tree: Tree, override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        Recipe.parse(yaml.safe_dump({**tree, "stages": STAGES}), [override])
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_stage_overrides_any_keys(tree: Tree) -> None:
    tree["data"] = [{"source": "flatland"}, {"source": "flatland", "weight": 3.0}]
    rows = [*STAGES, {"name": "own", "train": {"seed": 9}, "hand": {"train": "lora", "lora_rank": 2}, "data.1.weight": 0.5, "log": None}]
    recipe = Recipe.parse(yaml.safe_dump({**tree, "stages": rows}), ["train.lr=2e-3", "stages.1.train.lr=5e-4"])
    one, two, three = recipe.runs()
    assert [run.train.lr for run in (one, two, three)] == [2e-3, 5e-4, 2e-3]
    assert [run.train.seed for run in (one, two, three)] == [0, 1, 9]  # or a stage would begin with the last one's first rows again
    assert (two.train.steps, two.objective.distill, two.hand.options["steps"]) == (2, 0.5, 3)
    assert [source.weight for source in three.data] == [1.0, 0.5] and three.log == one.log
    assert Recipe.parse(recipe.dump()) == recipe
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()
    alone = Recipe.from_dict(tree)
    assert alone.runs() == (alone,) and "stages" not in alone.to_dict() and "init" not in alone.to_dict()
