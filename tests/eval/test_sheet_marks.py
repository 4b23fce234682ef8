"""Which pictures of a contact sheet are marked right or wrong, and what a table says of failures and of chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.eval import benchmarks, report, result, sheet, tables
from metabridge.eval.benchmarks import Metric
from metabridge.eval.items import MODEL_ERROR, Item
from metabridge.eval.plan import Sample
from metabridge.eval.score import Scored
from tests.eval import small_benchmark


def scored(values: dict[str, float], state: str = "ok", reason: str = "", group: str = "animals", number: int = 0) -> Scored:
    return Scored(Sample("bridge", Item(number, f"{number}", group, "x", {}), 0, 0), state, values, reason, None)


RIGHT = Metric("correct")
SCALE = Metric("score", low=1, high=5)
RATIO = Metric("words", within="ratio")
FID = Metric("fid", within="set", high=None, better="lower")
OPEN = Metric("steps", high=None)


@pytest.mark.parametrize(
    ("values", "metric", "mark", "badge"),
    [
        ({"correct": 1.0}, RIGHT, "right", ""),
        ({"correct": 0.0}, RIGHT, "wrong", ""),
        ({"score": 4.0}, SCALE, "partly", "4.00"),
        ({"words": 3.0, "words.of": 4.0}, RATIO, "partly", "0.75"),
        ({"words": 0.0, "words.of": 0.0}, RATIO, "", ""),  # nothing to count
        ({"other": 1.0}, RIGHT, "", ""),  # not of the headline's subset
        ({"clip_score": 30.0}, FID, "", ""),
        ({"fid": 3.0}, FID, "", ""),
        ({"steps": 7.0}, OPEN, "", ""),
    ],
)
def test_marks(tmp_path: Path, values: dict[str, float], metric: Metric, mark: str, badge: str) -> None:
    one = scored(values)
    path = tmp_path / one.sample.file
    path.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(path)
    tile = sheet._tile(one, tmp_path, metric)
    assert (tile.mark, tile.badge) == (mark, badge) and tile.image is not None


def test_a_sheet_of_a_distance_claims_nothing(tmp_path: Path) -> None:
    metric: dict[str, Any] = {"name": "fid", "within": "set", "high": None, "better": "lower"}
    benchmark = benchmarks.parse("small", {**small_benchmark.tree(), "metrics": [metric]}, "small")
    rows = [scored({}, number=number) for number in range(3)]
    for one in rows:
        (tmp_path / one.sample.file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / one.sample.file)
    ((_, (figure,)),) = report.sheets(benchmark, rows, tmp_path)
    assert figure.title == "animals: 3 of 3 shown"
    usual = small_benchmark.small()
    ((_, (figure,)),) = report.sheets(usual, [scored({"correct": float(n > 0)}, number=n) for n in range(3)], tmp_path)
    assert figure.title == "animals: 2 of 3 right, 3 shown, worst first"


def test_pictures_that_could_not_be_made_say_why() -> None:
    pictures = {"ok": 3, "model_error": 7, "infra_error": 0}
    failed = {"d": 1, "the picture has NaN or infinite pixels": 2, "refused": 3, "e": 1}
    assert tables.warnings({"pictures": pictures, "failed": failed, "scores": {}}) == [
        "7 of 10 pictures could not be made (refused: 3; the picture has NaN or infinite pixels: 2; d: 1; for other reasons: 1); "
        "they count as the worst, where a measure has one."
    ]


def test_chance_is_weighted_as_the_groups_are() -> None:
    benchmark = small_benchmark.small()
    rows = [scored({"correct": 1.0}, group=group, number=n) for n, group in enumerate(["animals"] * 3 + ["plants"])]
    chance = {"animals": 0.5, "plants": 0.1}
    for weights, mean in (("equal", 0.3), ("prompts", 0.4), ({"animals": 0.25, "plants": 0.75}, 0.2)):
        found = result.group(rows, Metric("correct", weights=weights), benchmark, chance)
        assert found["overall"]["chance"] == pytest.approx(mean) and found["plants"]["chance"] == 0.1
    assert "chance" not in result.group(rows, RIGHT, benchmark, {"animals": 0.5})["overall"]  # not known of every group


def test_the_reason_of_a_failure_reaches_the_result(small_plan: Any) -> None:
    states = [MODEL_ERROR, "ok", MODEL_ERROR]
    rows = [Scored(s, state, {"correct": 1.0}, "no picture", None) for s, state in zip(small_plan.samples(), states, strict=False)]
    found = result.summarize(small_plan, rows, {"variant": "checker"}, result.Services(None), {})
    assert found["failed"] == {"no picture": 2} and found["pictures"]["model_error"] == 2
    assert "failed" not in result.summarize(small_plan, rows[1:2], {"variant": "checker"}, result.Services(None), {})
