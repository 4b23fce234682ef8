"""RISEBench: its edits, its questions and its scores, against the official functions' own outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item, Unscored, Verdict
from metabridge.eval.layouts import rise as layout
from metabridge.eval.scorers import rise
from tests.eval.rubric_judge import golden, one, scorer

ROOT = Path(__file__).parents[2]


def rise_item(data: Path, category: str, calls: list[str], **want: Any) -> Item:
    for name in ("source.png", "reference.png"):
        Image.new("RGB", (30 if name == "source.png" else 50, 20)).save(data / name)
    return Item(0, "r1", category, "Draw it a year later", {"calls": calls, "reference": "a rotten banana", **want}, ("source.png",))


def test_rise_scores_replay(test_data: Path) -> None:
    for row in golden(test_data, "rise_scores"):
        given, logical = row["row"], row["row"]["category"] == rise.LOGICAL
        scores = {"consistency": given["ApprConsistency"], "reasoning": given["Reasoning"], "plausibility": given["VisualPlausibility"]}
        assert rise.weighted(scores, logical, "consistency_free" in given) == row["score"]
        assert rise.right(scores, logical, bool(given.get("consistency_free"))) == bool(row["complete"])


def test_rise_is_right_where_all_is_best(tmp_path: Path) -> None:
    item = rise_item(tmp_path, "temporal_reasoning", ["consistency", "reasoning", "plausibility"], consistency_free=None)
    answers = ("Good.\nFinal Score: 4", "**Final Score:** 5/5", "Final Score: 5")
    made, judge = scorer("rise", *answers, data=tmp_path)
    verdict = one(made, item)
    assert isinstance(verdict, Verdict)
    assert verdict.values == {"accuracy": 0.0, "score": 0.3 * 4 + 0.5 * 5 + 0.2 * 5}
    assert verdict.facets == {"appearance consistency": (0.75, 1), "instruction reasoning": (1, 1), "visual plausibility": (1, 1)}
    assert [len(shown) for shown in judge.pictures()] == [2, 1, 1] and "a rotten banana" in judge.texts()[1]
    assert judge.requests[0].max_side == 768
    official = one(scorer("rise", *answers, data=tmp_path, compat="official")[0], item)
    assert isinstance(official, Verdict) and official.values == {"accuracy": 0.0, "score": 5.0}  # an empty consistency_free counts as one


def test_rise_without_consistency(tmp_path: Path) -> None:
    item = rise_item(tmp_path, "causal_reasoning", ["reasoning_source", "plausibility"], consistency_free=True)
    made, judge = scorer("rise", "Final Score: 5", "Final Score: 5", data=tmp_path)
    verdict = one(made, item)
    assert isinstance(verdict, Verdict) and verdict.values == {"accuracy": 100.0, "score": 5.0}
    assert rise.calls(benchmarks.load("rise").scorer_options, item) == len(judge.requests) == 2


def test_rise_logical_is_yes_or_no_beside_the_reference(tmp_path: Path) -> None:
    calls = ["consistency_logical_picture", "reasoning_logical_picture"]
    item = rise_item(tmp_path, "logical_reasoning", calls, source="reference.png")
    made, judge = scorer("rise", "Final Score: 1", "Final Score: 0", data=tmp_path)
    verdict = one(made, item)
    assert isinstance(verdict, Verdict)
    assert verdict.values == {"accuracy": 0.0, "score": max(1.0, 0.5 * (0.3 * 5 + 0.7 * 1))}
    assert [picture.size for picture in judge.pictures()[0]] == [(50, 20), (8, 8)]
    assert isinstance(one(scorer("rise", *["Final Score: 5"] * 3, data=tmp_path)[0], item), Unscored)  # 5 is neither yes nor no


def test_the_calls_of_rise_are_what_its_reader_names() -> None:
    text = (ROOT / "eval/readers/rise.py").read_text()
    named = [call["name"] for call in yaml.safe_load((ROOT / "eval/benchmarks/rise.yaml").read_text())["scoring"]["calls"]]
    assert all(f'"{name}"' in text for name in named)


# Its reader.


def data(folder: Path, change: Callable[[list[dict[str, Any]]], Any] = lambda rows: None) -> Path:
    kinds = ["temporal_reasoning", "causal_reasoning", "spatial_reasoning", "spatial_reasoning", "logical_reasoning", "logical_reasoning"]
    rows = [{"index": f"{kind}_{n}", "category": kind, "instruction": f"Edit {n}", "image": "p.png"} for n, kind in enumerate(kinds)]
    judged = [{"reference": "a"}, {"reference": "b", "reasoning_img": 1}, {"reference": "c"}, {"reference_img": "q.png"}]
    for row, more in zip(rows, [*judged, {"reference_txt": "d"}, {"reference_img": "q.png"}], strict=True):
        row.update(more)
    change(rows)
    (folder / "data_total.json").write_text(json.dumps(rows))
    for name in ("p.png", "q.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def test_what_each_edit_is_judged_by(tmp_path: Path) -> None:
    items = benchmarks.load("rise").items(data(tmp_path))
    assert [item.want for item in items] == [
        {"calls": ["consistency", "reasoning", "plausibility"], "reference": "a"},
        {"calls": ["consistency", "reasoning_source", "plausibility"], "reference": "b"},
        {"calls": ["consistency", "reasoning", "plausibility"], "reference": "c"},
        {"calls": ["consistency_picture", "reasoning_picture", "plausibility"], "source": "q.png"},
        {"calls": ["consistency_logical", "reasoning_logical"], "reference": "d"},
        {"calls": ["consistency_logical_picture", "reasoning_logical_picture"], "source": "q.png"},
    ]
    assert (items[1].id, items[1].group, items[1].images) == ("causal_reasoning_1", "causal_reasoning", ("p.png",))


def test_a_column_of_consistency_free(tmp_path: Path) -> None:
    items = benchmarks.load("rise").items(data(tmp_path, lambda rows: rows[1].update(consistency_free=True)))
    assert [item.want["consistency_free"] for item in items] == [None, True, None, None, None, None]
    assert items[1].want["calls"] == ["reasoning_source", "plausibility"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[1].update(index="temporal_reasoning_0"), "entry 2: index temporal_reasoning_0 is there already; remove one"),
        (lambda rows: rows[1].update(category="causal"), "entry 2: causal: no such category; it may be one of: causal_reasoning, "),
        (lambda rows: rows[0].pop("reference"), "entry 1: nothing to judge it against; temporal_reasoning takes a reference"),
        (lambda rows: rows[5].pop("reference_img"), "entry 6: nothing to judge it against; logical_reasoning takes a reference"),
        (lambda rows: rows[1].update(image="/etc/passwd"), "entry 2: '/etc/passwd' leads out of the data folder"),
        (lambda rows: rows[1].pop("instruction"), "entry 2: no text in instruction; an edit has index, category, instruction, image and"),
    ],
)
def test_broken_files(change: Callable[[list[dict[str, Any]]], Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        benchmarks.load("rise").items(data(tmp_path, change))
    assert str(error.value).startswith(f"{tmp_path}/data_total.json: {why}")


def test_folder(tmp_path: Path) -> None:
    items = benchmarks.load("rise").items(data(tmp_path))
    layout.export([(items[0], 0, tmp_path / "p.png")], tmp_path / "out")
    place = tmp_path / "out/images/temporal_reasoning/temporal_reasoning_0.png"
    assert layout.pictures(items, tmp_path / "out") == {("temporal_reasoning", "temporal_reasoning_0", 0): place}
    with pytest.raises(UserError, match="writes a spreadsheet, which cannot be imported"):
        layout.results(tmp_path / "m_judge.xlsx", items)
