"""The commands that write figures and tables of docs/, on small runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metabridge.eval import store
from metabridge.eval.result import SCHEMA
from metabridge.scripts import ablations, figure

CELL = {"value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.1}


def result(value: float = 0.5) -> dict[str, object]:
    cells = {kind: {**CELL, "value": value} for kind in ("overall", "single", "two_object", "counting", "color_attr")}
    reasoning = {"implicit": {"overall": CELL, "negation": CELL}, "think": {"overall": CELL, "negation": CELL}}
    tables = {
        "scores": {"composition": cells, "reasoning": reasoning},
        "baselines": {"hand_text_encoder": {"composition": cells}},
        "differences": {"bridge - hand_text_encoder": {"composition": cells}},
        "thoughts": {"overall": CELL, "negation": CELL},
    }
    identity = {"scoring": {}, "benchmark": {"name": "flatland"}, "model": {}, "generation": {}}
    return {"schema": SCHEMA, "variant": "flatland/exact", "pictures": {}, "identity": identity, **tables, "held_out": tables}


def test_the_table_of_scores_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "flatland.md"
    page.write_text("before\n<!-- scores -->\nold\n<!-- end -->\nafter\n")
    (tmp_path / "result.json").write_text(json.dumps(result()))
    monkeypatch.setattr("sys.argv", ["figure", str(tmp_path), str(tmp_path / "result.json")])
    figure.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- scores -->\n| composition |") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| two objects | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] |" in text
    assert "| negation | 0.50 [0.25, 0.75] | 0.50 [0.25, 0.75] | 0.50 | 0.50 [0.25, 0.75] | 0.10 |" in text


def test_the_tables_with_pictures_have_each_way_of_drawing(tmp_path: Path) -> None:
    def rows(kinds: tuple[str, ...], value: float) -> dict[str, object]:
        return {"correct": {kind: {**CELL, "value": value} for kind in ("overall", *kinds)}}

    parts = {"edit": ("remove",), "given": ("mix", "both")}
    ways = {
        part: {"implicit": rows(kinds, 0.5), "think": rows(kinds, 0.75), "query-only": rows(kinds, 0.25)} for part, kinds in parts.items()
    }
    gain = {part: rows(kinds, 0.25) for part, kinds in parts.items()}
    lines = figure.edit_scores(
        {
            "scores": ways,
            "differences": {"implicit - query-only": gain},
            "thoughts": {kind: CELL for kind in ("remove", "mix", "both")},
            "held_out": {"scores": {part: {"think": {"correct": {}}} for part in parts}},
        }
    )
    interval = "[0.25, 0.75]"
    assert lines[3] == f"| remove | 0.50 {interval} | 0.75 {interval} | 0.50 | 0.25 {interval} | 0.25 {interval} |  |"
    assert lines[4] == "" and lines[5].startswith("| pictures given | implicit | with think |") and len(lines) == 10


def test_the_table_of_ablations_has_the_runs_that_are_done_averaged_over_seeds(tmp_path: Path) -> None:
    for seed, value in ((0, 0.4), (1, 0.6)):
        for name in ("base", "queries-4"):
            store.write_json(tmp_path / f"{name}-{seed}" / "eval" / "result.json", result(value))
    store.write_json(tmp_path / "lora-0" / "eval" / "result.json", result())  # its second seed is missing
    page = tmp_path / "ablations.md"
    page.write_text("before\n<!-- runs -->\n<!-- end -->\nafter\n")
    ablations.report(tmp_path, range(2), tmp_path)
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after"
    rows = [line.split(" | ")[0].strip("| *") for line in lines if line.startswith("| ") and "[" in line]
    assert rows == ["flatland-demo, 400 steps", "4 queries"]
    assert "| 4 queries | 0.50 [0.25, 0.75] |" in page.read_text()
    assert (tmp_path / "ablations.png").stat().st_size > 5000


def test_every_ablation_is_a_recipe_that_can_be_read() -> None:
    for name, run in ablations.RUNS.items():
        recipe = ablations.Recipe.load(ablations.recipes.find(ablations.BASE), (ablations.STEPS, *run.overrides))
        assert recipe.train.steps <= 400, name
        assert run.like is None or run.like in ablations.RUNS
