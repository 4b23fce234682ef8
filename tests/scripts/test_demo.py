"""The demo over a tiny brain and hand: everything it promises is there, and running it again repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from metabridge.adapters import assemble
from metabridge.bridge.artifact import save_bridge
from metabridge.bridge.errors import UserError
from metabridge.bridge.recipe import Recipe
from metabridge.scripts.demo import PLAIN, THINK, demo
from tests.tiny import recipe_tree


def test_demo(brain_folder: Path, hand_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = recipe_tree(brain_folder, hand_folder)
    tree["hand"] = {**tree["hand"], "steps": 1, "max_sequence_length": 64}
    tree |= {"train": {"steps": 3, "batch_size": 2, "warmup": 1}, "log": {"every": 1, "sample_every": 0}}
    recipe = Recipe.from_dict(tree)
    shipped = tmp_path / "shipped"
    save_bridge(assemble(recipe), shipped, recipe, {})
    out = tmp_path / "demo"

    limits = ("1", "single=2"), ("1",)
    demo(recipe, str(shipped), out, "metabridge train tiny", limits)

    report = json.loads((out / "report.json").read_text())
    assert report["scores"]["composition"]["single"]["n"] == 2
    assert report["baselines"]["shipped"]["composition"]["single"]["n"] == 1
    assert report["baselines"].keys() == {"hand_text_encoder", "shipped"}
    assert report["baselines"]["shipped"]["reasoning"]["think"]["overall"]["n"] == 7
    assert report["training"]["steps"] == 3 and report["seconds"]["train"] > 0
    assert report["identity"]["model"]["fingerprint"] != report["baselines"]["shipped"]["identity"]["model"]["fingerprint"]
    page = (out / "report.html").read_text()
    for text in (
        "metabridge train tiny",
        f"metabridge eval {out}/run --suite flatland --limit 1 --limit single=2 --images 1 -o {out}/eval-demo",
        "Samples",
        "Training",
        "Composition",
        "Reasoning",
        "Contact sheets",
    ):
        assert text in page
    with Image.open(out / "samples.png") as samples:
        assert samples.width > 900
    assert len(PLAIN) == len(THINK) == 5
    shown = capsys.readouterr().out
    assert "composition, overall" in shown and str(out / "report.html") in shown.replace("\n", "")

    pictures = {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")}
    AcceleratorState._reset_state(True)
    demo(recipe, str(shipped), out, "metabridge train tiny", limits)
    assert pictures == {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")}
    again = json.loads((out / "report.json").read_text())
    assert again["scores"] == report["scores"]

    (out / "seconds.json").write_text("{")
    with pytest.raises(UserError, match=r"seconds.json: cannot be read .*; remove it and run again"):
        demo(recipe, str(shipped), out, "metabridge train tiny", limits)
