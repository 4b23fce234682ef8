"""Fixtures for what trains: a tiny recipe over the tiny checkpoints of conftest.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState

from metabridge.adapters import assemble
from metabridge.bridge.recipe import Recipe
from tests.tiny import recipe_tree

TRAIN = {"steps": 4, "batch_size": 4, "warmup": 1, "lr": 1e-3, "ema": 0.9, "checkpoint_every": 2}


@pytest.fixture
def tree(brain_folder: Path, hand_folder: Path) -> dict[str, Any]:
    return recipe_tree(brain_folder, hand_folder) | {"train": dict(TRAIN), "log": {"every": 1, "sample_every": 0}}


@pytest.fixture
def recipe_file(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps the first precision of a process for good."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def made(tree: Mapping[str, Any], **train: Any) -> tuple[Recipe, Any]:
    """The recipe of a tree with some settings of train changed, and its bridge."""
    recipe = Recipe.from_dict({**tree, "train": {**tree["train"], **train}})
    return recipe, assemble(recipe)
