"""What a user types for a quantized brain and for several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts.conftest import Command

SMALL = ("--limit", "1", "--images", "1", "--no-baseline", "--steps", "2")


def settings(path: Path) -> dict[str, object]:
    with Image.open(path) as image:
        return dict(json.loads(image.info["settings"]))


def test_a_drawing_says_how_the_brain_was_kept(metabridge: Command, trained: Path, tmp_path: Path) -> None:
    for name in ("int8", "none"):
        code, _, err = metabridge("generate", trained, "a cat", "--quantize", name, "-o", f"{name}.png")
        assert code == 0 and settings(tmp_path / f"{name}.png")["quantize"] == name
        assert ("brain.quantize: int8, but this bridge was trained on none" in err) == (name == "int8")
    assert metabridge("generate", trained, "a cat")[0] == 0
    assert settings(tmp_path / "out.png") == settings(tmp_path / "none.png")


def test_an_unknown_format_is_one_line(metabridge: Command, trained: Path) -> None:
    code, _, err = metabridge("generate", trained, "a cat", "--quantize", "int3")
    assert code == 2 and "metabridge: brain.quantize: 'int3' given; it is one of: none, int8, nf4" in err


def test_an_evaluation_keeps_to_its_format(metabridge: Command, trained: Path, tmp_path: Path) -> None:
    assert metabridge("eval", "plan", trained, *SMALL, "--quantize", "nf4", "-o", "e")[0] == 0
    assert json.loads((tmp_path / "e/plan.json").read_text())["identity"]["model"]["brain"]["quantize"] == "nf4"
    assert metabridge("eval", "generate", "e")[0] == 0  # a plan that nothing was drawn of may be replaced
    code, _, err = metabridge("eval", trained, *SMALL, "-o", "e")
    assert code == 2 and "e holds another evaluation: its brain.quantize is nf4, asked for is none; give another folder with -o" in err
    code, _, err = metabridge("eval", "generate", "e", "--quantize", "nf4")
    assert code == 2 and "--quantize: has no effect on generate" in err


def test_memory_of_a_share_is_shown(metabridge: Command, recipe_file: Path) -> None:
    code, one, _ = metabridge("train", recipe_file, "--dry-run")
    assert code == 0 and "per process, activations aside" in one and "gathered blocks" not in one
    code, two, _ = metabridge("train", recipe_file, "--dry-run", "--processes", "2", "train.shard=both")
    assert code == 0 and "per process of 2, activations aside" in two and "gathered blocks: one that runs, and the next" in two
    code, shapes, _ = metabridge("check", recipe_file, "--shapes-only", "--processes", "2", "train.shard=both")
    frozen = next(line.split() for line in shapes.splitlines() if "frozen weights" in line)
    assert code == 0 and frozen in [line.split() for line in two.splitlines()], "the same from configs as from weights"


def test_processes_of_two_minds(metabridge: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    code, _, err = metabridge("train", recipe_file, "--processes", "2")
    assert code == 2 and "--processes: 2 given, but a launcher has started 4 already; leave the option out" in err
