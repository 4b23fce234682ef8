"""Recipes: defaults < YAML < overrides, and an error for everything that is not a recipe."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Connector, Log, Objective, Train
from metabridge.training import recipes

TEXT = """
brain: {name: auto, repo: a/b}
hand: {name: sana, repo: c/d, train: none}
data: [{source: flatland, weight: 2}, {source: other, task: edit, path: x.jsonl}]
train: {lr: 1e-4, steps: 10}
log: {wandb: off}
"""


def test_defaults_then_file_then_overrides() -> None:
    recipe = Recipe.parse(TEXT, ["train.steps=20", "connector.taps=[2, -1]", "data.0.weight=0.5", "hand.repo=e/f", "objective.think=.3"])
    assert recipe.train == dataclasses.replace(Train(), lr=1e-4, steps=20)  # PyYAML reads 1e-4 as a string
    assert recipe.objective == dataclasses.replace(Objective(), think=0.3)
    assert recipe.connector.taps == (2, -1) and recipe.connector.queries == 16
    assert (recipe.data[0].weight, recipe.data[0].task, recipe.data[1].task) == (0.5, "t2i", "edit")
    assert recipe.data[1].options == {"path": "x.jsonl"}
    assert (recipe.brain.options, recipe.hand.options) == ({"repo": "a/b"}, {"repo": "e/f", "train": "none"})
    assert recipe.log.wandb == "off"  # a bare off is False in YAML


def test_dump_gives_the_same_recipe_back() -> None:
    recipe = Recipe.parse(TEXT, ["log.prompts=[a cat, 'two: dogs']", "connector.taps=3"])
    assert Recipe.parse(recipe.dump()) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.connector.taps == (3,) and recipe.log.prompts == ("a cat", "two: dogs")
    assert len(recipe.dump().splitlines()) == 8


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes(name: str) -> None:
    path = recipes.find(name)
    recipe = Recipe.load(path)
    assert recipe.name == name
    assert path.read_text().startswith(f"# metabridge train {name} ")  # the command comes first


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lrr=1", "train.lrr: no such setting; did you mean lr? it may be one of: batch_size, "),
        ("trian.lr=1", "trian: no such setting; did you mean train? it may be one of: brain, connector, data, hand, init, log, "),
        ("data.0.task=t2", "data.0.task: 't2' given; did you mean t2i? it is one of: t2i, edit, compose, reconstruct, dialogue"),
        ("train.lr=fast", "train.lr: 'fast' given; it is a number"),
        ("train.lr=.nan", "train.lr: nan given; it is a number"),
        ("train.steps=1.5", "train.steps: 1.5 given; it is a whole number"),
        ("train.steps=true", "train.steps: True given; it is a whole number"),
        ("train.steps=0", "train.steps: 0 given; it is 1 at least"),
        ("train.seed=9223372036854775808", "train.seed: 9223372036854775808 given; it is 9.22337e+18 at most"),
        ("train.lr=1" + "0" * 400, "train.lr: 1000"),
        ("objective.think=2", "objective.think: 2.0 given; it is 1 at most"),
        ("log.wandb=offlin", "log.wandb: 'offlin' given; did you mean offline? it is one of: off, offline, online"),
        ("log.wandb=", "log.wandb: nothing given; it is text"),
        ("train=3", "train: a number given; it is a mapping of steps, "),
        ("brain=auto", "brain: give a mapping with a name, as {name: auto, repo: ...}"),
        ("data=[]", "data: give a list of sources, as [{source: flatland, task: t2i, weight: 1.0}]"),
        ("data=[3]", "data.0: give a mapping with a source, as {source: flatland, task: t2i, weight: 1.0}"),
        ("data.7.weight=1", "override data.7.weight: '7' is no position in a list of 2; count from 0"),
        ("data.x=1", "override data.x: 'x' is no position in a list of 2; count from 0"),
        ("train.lr", "override 'train.lr': write key=value, as train.lr=1e-4"),
        ("train.lr.x=1", "override 'train.lr.x=1': train.lr is a value, it has no keys below it"),
        ("train=[1", "override 'train=[1': no valid YAML: "),
        ("connector.width=100", "connector: width 100 is no multiple of heads 6; change one of them"),
        ("connector.width=18", "connector: width / heads is 3, but RoPE needs it even; change one of them"),
        ("connector.taps=0", "connector.taps: [0] given; a tap is a layer from 1 on, or -1 for the final norm"),
        ("objective={drop_text: .6, drop_image: .6}", "objective: drop_text + drop_image + drop_both is 1.2; they are shares of the rows"),
        ("data=[{source: flatland, weight: 0}]", "data: every weight is 0; give one source a weight above 0"),
        ("train.grad_accum=3", "train: batch_size 64 (global) does not divide by grad_accum 3"),
    ],
)
def test_an_error_says_what_was_given_and_what_exists(override: str, line: str) -> None:
    with pytest.raises(UserError) as raised:
        Recipe.parse(TEXT, [override])
    assert str(raised.value).startswith(line)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe .*gone.yaml: cannot be read \(No such file or directory\)"):
        Recipe.load(tmp_path / "gone.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match=r"list.yaml: a recipe is a mapping with the keys name, brain, .*; this is a list"):
        Recipe.load(tmp_path / "list.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary.yaml: cannot be read"):
        Recipe.load(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match=r"hand: missing; a recipe needs name, brain, hand and data"):
        Recipe.parse("brain: {name: auto}")


def test_a_section_may_be_empty_or_new() -> None:
    assert Recipe.parse(TEXT.replace("{wandb: off}", "")).log.every == 10
    assert Recipe.parse(TEXT + "objective:", ["objective.shift=3"]).objective.shift == 3


def test_whole_numbers_keep_every_digit() -> None:
    seed = 2**53 + 1  # the first that a float cannot hold
    assert Recipe.parse(TEXT, [f"train.seed={seed}"]).train.seed == seed
    assert Recipe.parse(TEXT, ["train.steps=2e3"]).train.steps == 2000


def test_unknown_without_a_guess() -> None:
    assert unknown("zzz", ["b", "a"], "hand") == "zzz: no such hand; it may be one of: a, b"
    assert unknown("zzz", [], "hand") == "zzz: no such hand; it may be one of: (none)"


def test_yaml_stays_plain() -> None:
    assert yaml.safe_load(Recipe.parse(TEXT).dump())["data"][1] == {"source": "other", "task": "edit", "weight": 1.0, "path": "x.jsonl"}


@pytest.mark.parametrize("section", [Connector, Objective, Train, Log])
def test_every_setting_is_in_the_docs_with_its_default(section: type[Any]) -> None:
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text(encoding="utf-8")
    table = page.split(f"| `{section.__name__.lower()}` | default | |\n|---|---|---|\n")[1].split("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    assert list(told) == [f.name for f in dataclasses.fields(section)]
    for f in dataclasses.fields(section):
        default = list(f.default) if isinstance(f.default, tuple) else f.default
        assert coerced(yaml.safe_load(told[f.name]), default) == default, f.name


def coerced(told: object, default: object) -> object:
    """As a recipe would read it: 1e-3 is text to PyYAML, off a truth."""
    if isinstance(default, bool | list):
        return told
    if isinstance(default, str):
        return "off" if told is False else told
    return float(told)  # type: ignore[arg-type]
