"""GenEval's rules against the outputs of the official functions, and against what must hold of any rules of this kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import section
from metabridge.eval.detect import Detection
from metabridge.eval.scorers.geneval_rules import RELATIONS, Rules, iou, judge, keep, relations

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def dog(score: float = 0.95, box: Sequence[float] = (0, 0, 10, 10), name: str = "dog") -> Detection:
    return Detection(name, score, (box[0], box[1], box[2], box[3]))


def verdict(want: Mapping[str, Any], found: Sequence[Detection], colors: Sequence[str] = (), tag: str = "colors") -> tuple[bool, str]:
    """`colors` are those of the objects asked about, in their order."""
    return judge(want, keep(found, tag, Rules()), lambda objects: list(colors)[: len(objects)], Rules())


def test_golden_rules(test_data: Path) -> None:
    rows = lines(test_data / "golden" / "geneval_rules.jsonl")
    assert len(rows) >= 830
    for row in rows:
        found = [Detection(one["cls"], one["score"], tuple(one["box"])) for one in row["detections"]]
        colors = {id(one): given["color"] for one, given in zip(found, row["detections"], strict=True)}
        kept = keep(found, row["metadata"]["tag"], Rules())
        correct, reason = judge(row["metadata"], kept, lambda objects, colors=colors: [colors[id(one)] for one in objects], Rules())
        answer = {"correct": correct, "reason": reason, "kept": {name: len(objects) for name, objects in kept.items()}}
        assert answer == {key: row[key] for key in answer}


def test_golden_relations(test_data: Path) -> None:
    rows = lines(test_data / "golden" / "geneval_relations.jsonl")
    assert len(rows) >= 300
    for row in rows:
        assert relations(row["a"], row["b"]) == row["relations"]
        assert iou(row["a"], row["b"]) == row["iou"]


@pytest.mark.parametrize(("tag", "kept"), [("colors", [0.95, 0.9, 0.31]), ("counting", [0.95])])
def test_a_score_must_be_above_the_threshold(tag: str, kept: list[float]) -> None:
    found = keep([dog(score) for score in (0.3, 0.95, 0.31, 0.9, 0.0)], tag, Rules())
    assert [one.score for one in found.get("dog", [])] == kept


def test_sixteen_of_a_class_and_ties_by_the_later() -> None:
    found = [dog(0.5, (k, 0, k + 1, 1)) for k in range(20)] + [dog(0.99, (99, 0, 100, 1)), dog(0.99, name="cat")]
    kept = keep(found, "colors", Rules())
    assert [one.box[0] for one in kept["dog"]] == [99, *range(19, 4, -1)]
    assert len(kept["cat"]) == 1


def test_nothing_is_suppressed_unless_asked_for() -> None:
    found = [dog(0.9, (0, 0, 10, 10)), dog(0.8, (0, 0, 10, 11)), dog(0.7, (50, 0, 60, 10)), dog(0.6, (0, 0, 10, 10))]
    assert len(keep(found, "colors", Rules())["dog"]) == 4
    assert [one.score for one in keep(found, "colors", Rules(max_overlap=0.5))["dog"]] == [0.9, 0.7]


def test_color_by_count_names_all_colors_seen() -> None:
    want = {"include": [{"class": "dog", "count": 3, "color": "red"}]}
    found = [dog(0.9 - k / 100) for k in range(4)]
    assert verdict(want, found, ["red", "red", "red"]) == (True, "")
    assert verdict(want, found, ["white", "red", "blue", "red"]) == (False, "expected red dog>=3, found 1 red; and 1 red, 1 blue, 1 white")
    assert verdict(want, found[:2], ["red", "red"]) == (False, "expected dog>=3, found 2")


def test_colors_are_read_only_where_they_decide() -> None:
    asked: list[int] = []

    def read(objects: list[Detection]) -> list[str]:
        asked.append(len(objects))
        return ["red"] * len(objects)

    kept = keep([dog(), dog(), dog(0.9, name="cat")], "colors", Rules())
    judge({"include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cow", "count": 1, "color": "red"}]}, kept, read, Rules())
    assert asked == [1]
    judge({"include": [{"class": "cat", "count": 1}]}, kept, read, Rules())
    assert asked == [1]


def test_every_object_must_stand_so_to_every_target() -> None:
    want = {"include": [{"class": "dog", "count": 2}, {"class": "cat", "count": 2, "position": ["left of", 0]}]}
    dogs = [dog(0.9, (100, 0, 110, 10)), dog(0.8, (200, 0, 210, 10))]
    cats = [dog(0.9, (20, 0, 30, 10), "cat"), dog(0.8, (0, 0, 10, 10), "cat")]
    assert verdict(want, dogs + cats) == (True, "")
    between = dog(0.8, (150, 0, 160, 10), "cat")
    assert verdict(want, [*dogs, cats[0], between]) == (False, "expected cat left of target, found right of target")
    third = dog(0.7, (150, 0, 160, 10), "cat")  # beyond what was asked for: not looked at
    assert verdict(want, [*dogs, *cats, third]) == (True, "")


def test_a_clause_that_failed_is_no_target_and_a_wrong_color_is_not_placed() -> None:
    want = {
        "include": [
            {"class": "dog", "count": 1, "color": "red"},
            {"class": "cat", "count": 1, "position": ["above", 0]},
            {"class": "cow", "count": 1, "color": "red", "position": ["above", 0]},
        ]
    }
    found = [dog(), dog(name="cat"), dog(name="cow")]
    assert verdict(want, found, ["blue"]) == (
        False,
        "expected red dog>=1, found 0 red; and 1 blue\nno target for cat to be above\nexpected red cow>=1, found 0 red; and 1 blue",
    )


def test_exclude_counts_whatever_include_said() -> None:
    want = {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}, {"class": "cat", "count": 1}]}
    assert verdict(want, [dog(), dog()], tag="counting") == (True, "")
    assert verdict(want, [dog(), dog(), dog(), dog(name="cat")], tag="counting") == (
        False,
        "expected dog<3, found 3\nexpected cat<1, found 1",
    )


def test_near_objects_have_no_relation_and_diagonal_ones_have_two() -> None:
    assert relations((0, 0, 10, 10), (2, 0, 12, 10)) == []  # 2 - 0.1 * 20 = 0
    assert relations((0, 0, 10, 10), (5, 0, 15, 10)) == ["left of"]  # (5 - 2) / 5 = 0.6
    assert relations((0, 0, 10, 10), (4, 0, 14, 10)) == []  # (4 - 2) / 4 = 0.5, not above it
    assert relations((0, 0, 10, 10), (100, 100, 110, 110)) == ["above", "left of"]
    assert relations((0, 0, 10, 10), (4, 0, 14, 10), shrink=0) == ["left of"]


def test_a_last_pixel_belongs_to_a_box() -> None:
    assert iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert iou((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)  # they share a column
    assert iou((0, 0, 9, 9), (10, 0, 19, 9)) == 0.0
    assert iou((5, 5, 0, 0), (9, 9, 2, 2)) == 0.0


def test_settings_are_held_to_their_ranges() -> None:
    assert section(Rules, {"threshold": "0.25"}, "scoring.rules").threshold == 0.25
    with pytest.raises(UserError, match=r"scoring.rules.threshold: 1.5 given; it is 1 at most"):
        section(Rules, {"threshold": 1.5}, "scoring.rules")


quiet = settings(deadline=None, database=None)  # a loaded machine is no failure
boxes = st.tuples(*[st.integers(0, 400)] * 2, *[st.integers(1, 200)] * 2).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@quiet
@given(boxes, boxes, st.integers(-500, 500), st.integers(-500, 500))
def test_relations_move_and_mirror(a: tuple[int, ...], b: tuple[int, ...], x: int, y: int) -> None:
    def move(box: tuple[int, ...]) -> tuple[int, ...]:
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    def mirror(box: tuple[int, ...]) -> tuple[int, ...]:
        return -box[2], box[1], -box[0], box[3]

    here = relations(a, b)
    assert set(here) <= set(RELATIONS)
    assert relations(move(a), move(b)) == here
    assert relations(b, a) == sorted(OPPOSITE[name] for name in here)
    assert relations(mirror(a), mirror(b)) == sorted(OPPOSITE[name] if "of" in name else name for name in here)
    assert 0 <= iou(a, b) == iou(b, a) <= iou(a, a) == 1


detections = st.builds(Detection, st.sampled_from(["dog", "cat"]), st.floats(0, 1), boxes)


@quiet
@given(st.lists(detections, max_size=24), detections, st.integers(1, 4))
def test_one_more_detection_never_helps_an_exclude_clause(found: list[Detection], more: Detection, count: int) -> None:
    want = {"exclude": [{"class": "dog", "count": count}]}
    before, after = (verdict(want, some, tag="counting")[0] for some in (found, [*found, more]))
    assert before or not after


@quiet
@given(st.lists(detections, max_size=24), detections, st.integers(1, 4))
def test_one_more_detection_never_harms_a_count_without_exclude(found: list[Detection], more: Detection, count: int) -> None:
    want = {"include": [{"class": "dog", "count": count}]}
    before, after = (verdict(want, some)[0] for some in (found, [*found, more]))
    assert after or not before
