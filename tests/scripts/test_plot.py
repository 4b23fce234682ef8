"""`metabridge plot`: what is drawn of which run, over what, and the one line where nothing can be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Command
from PIL import Image

from metabridge.eval.plot import plt
from metabridge.scripts.plot import COLORS, INK, Run, axis, names, panel, panels, read, smooth

Tree = dict[str, Any]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def falling(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"step": 10 * k, "loss": 1 / k, "grad_norm": 0.5, "lr": 1e-3, "seconds": 60.0 * k, **more} for k in range(1, count + 1)]


def test_smooth_in_closed_form() -> None:
    assert smooth([2.0] * 90) == pytest.approx([2.0] * 90)
    assert smooth([float(k - 45) for k in range(90)]) == pytest.approx(
        [float(k - 45) for k in range(90)]
    )  # a mean around each keeps a line
    assert smooth([math.exp(k) for k in range(90)]) == pytest.approx([math.exp(k) for k in range(90)])  # and the geometric one a power
    spike = [1.0] * 45 + [1e6] + [1.0] * 44
    assert max(smooth(spike)) == pytest.approx(1e6 ** (1 / 7))


def test_skipped_steps_and_rollbacks_stand_where_the_counts_grow() -> None:
    rows = falling(8)
    for row, count in zip(rows, (0, 1, 1, 3, 3, 0, 1, 1), strict=True):
        row |= {"skipped": count} if count else {}
        row["stage"] = "1-a" if row["step"] <= 50 else "2-b"  # the second stage counts anew
    run = Run("a", [*rows, {"step": 80, "validation_loss": 1.0}])
    assert run.jumps("skipped", "steps") == [20, 40, 70] and run.jumps("rollbacks", "steps") == []


def test_panels_are_what_the_runs_hold() -> None:
    loss = Run("a", falling(3))
    scored = Run("b", [{"step": 1, "loss": None}, {"step": 1, "score_think": 0.5, "score_composition": 0.25, "null_gap": math.nan}])
    assert panels([loss], None) == ["loss", "grad_norm", "lr"]
    assert panels([loss, scored], None) == ["loss", "score_composition", "score_think", "grad_norm", "lr"]
    assert panels([loss, scored], "score, lr") == ["score_composition", "score_think", "lr"]


def test_a_panel_draws_raw_and_smooth_in_the_color_of_the_run() -> None:
    figure, axes = plt.subplots()
    rows = [{**row, "skipped": 2, "rollbacks": 1} if row["step"] >= 100 else row for row in falling(40)]
    panel(axes, [Run("short", falling(5)), Run("long", rows)], "loss", "steps", 1)
    short, raw, smoothed, skipped, back = axes.get_lines()
    assert list(short.get_ydata()) == [1 / k for k in range(1, 6)] and short.get_marker() == "o"
    assert raw.get_alpha() < 0.5 and smoothed.get_alpha() is None
    assert [line.get_color() for line in (short, raw, smoothed, skipped, back)] == [COLORS[0], *[COLORS[1]] * 4]
    assert list(skipped.get_xdata()) == [100] == list(back.get_xdata())[:1]
    assert axes.get_yscale() == "log" and axes.get_legend_handles_labels()[1] == [
        "short",
        "long",
        "steps skipped",
        "gone back to a checkpoint",
    ]
    plt.close(figure)


def test_axes_of_runs(tree: Tree, tmp_path: Path) -> None:
    run = Run("a", falling(300))
    assert axis([run], "seconds") == (3600, "hours") and axis([Run("b", falling(3))], "seconds") == (60, "minutes")
    assert axis([run], "steps") == (1, "step")
    folder = write(
        tmp_path / "staged",
        [{"step": 4, "stage": "1-a", "loss": 1}, {"step": 6, "stage": "2-b", "loss": 1}, {"step": 7, "stage": "2-b", "loss": 1}],
    )
    tree["stages"] = [{"name": "a", "train": {"steps": 4}}, {"name": "b", "train": {"steps": 4, "batch_size": 32}}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert [row["rows"] for row in read(folder, "rows")] == [16, 16 + 64, 16 + 96]


def test_names(tmp_path: Path) -> None:
    assert names([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "other/"]) == [
        str(tmp_path / "a/run"),
        str(tmp_path / "b/run"),
        "other",
    ]


def test_a_picture_of_two_runs(metabridge: Command, trained: Path) -> None:
    write(Path("other"), falling(60))
    for words in ([], ["--x", "seconds"], ["--keys", "loss"]):
        code, out, err = metabridge("plot", trained, "other", *words, "-o", "sub/curves.png")
        assert (code, out, err) == (0, "sub/curves.png\n", "")
        pixels = np.asarray(Image.open("sub/curves.png").convert("RGB")).reshape(-1, 3)
        for color in (*COLORS[:2], INK, "#ffffff"):
            assert (pixels == [int(color[k : k + 2], 16) for k in (1, 3, 5)]).all(1).sum() > 50
    assert metabridge("plot", trained, "--x", "rows")[:2] == (0, "plots.png\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["gone"], "gone: no such folder; give a run folder, as runs/flatland"),
        (["empty"], "empty: no metrics.jsonl in it; give a run folder whose recipe has log.every above 0"),
        (["begun"], "begun: nothing in metrics.jsonl yet; give a run folder whose recipe has log.every above 0"),
        (
            ["a", "--keys", "loss,losss"],
            "--keys losss: no such number in these runs; did you mean loss? it may be one of: grad_norm, loss, lr",
        ),
        (["a", "--keys", "score"], "--keys score: no such number in these runs; it may be one of: grad_norm, loss, lr"),
        (["nan"], "nothing to draw: these runs have finite numbers for none of loss; give others with --keys"),
        (["a", "--x", "step"], "step: no such axis; did you mean steps? it may be one of: rows, seconds, steps"),
        (["a", "--x", "rows"], "recipe a/recipe.yaml: cannot be read (No such file or directory)"),
        (["a", "-o", "a.jpg"], "-o a.jpg: curves are written as .png; give a name that ends in .png"),
        (
            ["a", "-o", "a/metrics.jsonl/a.png"],
            "-o a/metrics.jsonl/a.png: cannot be written (File exists); make room or give another path",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_one_line(metabridge: Command, words: list[str], line: str) -> None:
    write(Path("a"), falling(3))
    write(Path("begun"), [])
    write(Path("nan"), [{"step": 1, "loss": math.nan, "seconds": 1.0}])
    Path("empty").mkdir()
    assert metabridge("plot", *words) == (2, "", f"metabridge: {line}\n")
