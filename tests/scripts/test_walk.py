"""docs/generation.md: its code runs as it stands, and its pictures show what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.sheet import compose
from metabridge.scripts import walk

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "generation.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the page's code has made, block after block."""
    made: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "generation.md", "exec"), made)
    return made


def test_the_code_of_the_page(names: dict[str, Any]) -> None:
    talk, pipe = names["talk"], names["pipe"]
    assert [turn.prompt for turn in talk.turns] == [text for text, _ in walk.TALK[:2]]
    assert pipe.think("as many stars as a dog has legs") == ["four stars"]
    assert pipe.answer("What color is fresh grass?") == "green"


@pytest.mark.parametrize("name", walk.PICTURES)
def test_a_picture_shows_what_it_says(name: str, names: dict[str, Any]) -> None:
    """Drawn anew, each is right by the checker, and the sheet is the one on the page but for the last bits of a color."""
    pipe: BridgePipeline = names["pipe"]
    columns, make = walk.PICTURES[name]
    shots = make(pipe)
    assert not [f"{shot.text}: {shot.wrong}" for shot in shots if shot.wrong]
    with Image.open(DOCS / name) as kept:
        drawn = compose([shot.tile for shot in shots], columns=columns)
        assert kept.size == drawn.size and np.abs(np.asarray(kept, float) - np.asarray(drawn, float)).mean() < 2


def test_the_page_shows_every_picture() -> None:
    assert set(re.findall(r"\((generation-\w+\.png)\)", PAGE)) == set(walk.PICTURES)
