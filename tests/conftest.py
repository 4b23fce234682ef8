"""Tiny real checkpoints, made once a session, and bridges over them."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import tiny
import torch
from PIL import Image

from metabridge.adapters import assemble
from metabridge.bridge.model import Bridge
from metabridge.bridge.recipe import Recipe

pytest_plugins = ["record"]  # --record-status

# A job that a shell starts in the background ignores Ctrl-C, and so do its children; the tests of Ctrl-C need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The data beside the checkout: benchmarks and what their official scorers answer."""
    if "METABRIDGE_TEST_DATA" not in os.environ:
        pytest.skip("METABRIDGE_TEST_DATA is not set: no benchmark data to test with")
    return Path(os.environ["METABRIDGE_TEST_DATA"])


@pytest.fixture(scope="session")
def brain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_brain(tmp_path_factory.mktemp("tiny") / "brain")


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_causal_lm(tmp_path_factory.mktemp("tiny") / "causal")


@pytest.fixture(scope="session")
def hand_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_hand(tmp_path_factory.mktemp("tiny") / "hand")


@pytest.fixture(scope="session")
def tiny_recipe(brain_folder: Path, hand_folder: Path) -> Recipe:
    return Recipe.from_dict(tiny.recipe_tree(brain_folder, hand_folder))


@pytest.fixture(scope="session")
def _bridge(tiny_recipe: Recipe) -> Bridge:
    return assemble(tiny_recipe)


@pytest.fixture
def bridge(_bridge: Bridge) -> Bridge:
    """A bridge of one's own: a test may train it."""
    return copy.deepcopy(_bridge)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return noise_picture(0, 48, 64)


@pytest.fixture(scope="session")
def wide_picture() -> Image.Image:
    return noise_picture(1, 96, 40)


def noise_picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
