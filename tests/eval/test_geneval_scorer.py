"""GenEval from pixels to score: drawn scenes of known answer, through a detector that knows them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.detect import Detection
from metabridge.eval.items import Item, Services, Verdict
from metabridge.eval.readers import geneval as reader
from metabridge.eval.scorers import geneval
from tests.eval.drawn_scenes import PALETTE, Drawn, Oracle, draw, right_scene, scene_of, wrong_scene

ORACLE = {"detector": "tests.eval.drawn_scenes", "colors": "tests.eval.drawn_scenes"}


def scorer(**options: Any) -> geneval.GenEval:
    return geneval.load({**ORACLE, **options}, Services(None))


def item(tag: str, *include: dict[str, Any], **more: Any) -> Item:
    return Item(0, "00000", tag, "", {"include": [{"count": 1, **clause} for clause in include], **more})


def score(asked: Item, *scene: Drawn) -> Verdict:
    (verdict,) = scorer().score([(asked, draw(scene))])
    return verdict


def test_a_drawing_says_what_was_drawn() -> None:
    scene = [Drawn(f"thing {k}", (40 * k, 10, 40 * k + 30, 60), color) for k, color in enumerate(list(PALETTE)[:6])]
    image = draw(scene)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert scene_of(Image.open(buffer)) == scene
    (found,) = Oracle().detect([image])
    assert [(one.name, one.box) for one in found] == [(one.name, tuple(map(float, one.box))) for one in scene]
    assert Oracle().colors(image, found) == list(PALETTE)[:6]
    assert Oracle().detect([Image.new("RGB", (64, 64))]) == [[]]


def test_all_prompts_drawn_right_and_wrong(test_data: Path) -> None:
    """Each of the 553, once as asked for and once with one thing wrong."""
    items = reader.load({}, test_data / "bench_data" / "geneval")
    right = scorer().score([(asked, draw(right_scene(asked.want))) for asked in items])
    assert {(verdict.values["correct"], verdict.reason) for verdict in right} == {(1.0, "")}
    wrong = scorer().score([(asked, draw(wrong_scene(asked.want))) for asked in items])
    assert {verdict.values["correct"] for verdict in wrong} == {0.0}
    last = {asked.group: verdict.reason for asked, verdict in zip(items, wrong, strict=True)}
    assert last == {
        "single_object": "expected kite>=1, found 0",
        "two_object": "expected giraffe>=1, found 0",
        "counting": "expected bus<5, found 5",
        "colors": "expected red cake>=1, found 0 red; and 1 orange",
        "position": "expected couch left of target, found right of target",
        "color_attr": "expected yellow baseball glove>=1, found 0 yellow; and 1 green",
    }


def test_single_object() -> None:
    asked = item("single_object", {"class": "bench"})
    assert score(asked, Drawn("bench", (10, 10, 60, 60))).values == {"correct": 1.0}
    assert score(asked, Drawn("chair", (10, 10, 60, 60))).reason == "expected bench>=1, found 0"
    assert score(asked, Drawn("bench", (10, 10, 60, 60), score=0.3)).reason == "expected bench>=1, found 0"
    covered = score(asked, Drawn("bench", (10, 10, 60, 60)), Drawn("chair", (5, 5, 90, 90), form="rectangle"))
    assert covered.reason == "expected bench>=1, found 0"


def test_two_objects() -> None:
    asked = item("two_object", {"class": "fork"}, {"class": "knife"})
    fork, knife = Drawn("fork", (10, 10, 60, 60)), Drawn("knife", (30, 30, 90, 90))
    assert score(asked, fork, knife).values["correct"] == 1.0
    assert score(asked).reason == "expected fork>=1, found 0\nexpected knife>=1, found 0"
    assert score(asked, fork).reason == "expected knife>=1, found 0"


def test_counting() -> None:
    asked = item("counting", {"class": "bus", "count": 3}, exclude=[{"class": "bus", "count": 4}])
    buses = [Drawn("bus", (50 * k, 10, 50 * k + 40, 60)) for k in range(4)]
    assert score(asked, *buses[:3]).values["correct"] == 1.0
    assert score(asked, *buses[:2]).reason == "expected bus>=3, found 2"
    assert score(asked, *buses).reason == "expected bus<4, found 4"
    unsure = replace(buses[3], score=0.9)
    assert score(asked, *buses[:3], unsure).values["correct"] == 1.0
    assert score(asked, *buses[:2], unsure).reason == "expected bus>=3, found 2"


@pytest.mark.parametrize("color", list(PALETTE))
def test_colors(color: str) -> None:
    asked = item("colors", {"class": "car", "color": color})
    other = list(PALETTE)[(list(PALETTE).index(color) + 5) % 10]
    assert score(asked, Drawn("car", (10, 10, 60, 60), color)).values["correct"] == 1.0
    wrong = score(asked, Drawn("car", (10, 10, 60, 60), other), Drawn("cow", (90, 90, 140, 140), color))
    assert wrong.reason == f"expected {color} car>=1, found 0 {color}; and 1 {other}"
    best = score(asked, Drawn("car", (10, 10, 60, 60), color, score=0.8), Drawn("car", (70, 10, 120, 60), other, score=0.9))
    assert best.reason == f"expected {color} car>=1, found 0 {color}; and 1 {other}"  # only the best is looked at


@pytest.mark.parametrize(
    ("relation", "x", "y"), [("left of", -70, 10), ("right of", 70, -10), ("above", 10, -70), ("below", -10, 70), ("above", -70, -70)]
)
def test_position(relation: str, x: int, y: int) -> None:
    asked = item("position", {"class": "dog"}, {"class": "kite", "position": [relation, 0]})
    dog = Drawn("dog", (100, 80, 130, 100))
    kite, mirrored = (Drawn("kite", (100 + a, 80 + b, 130 + a, 100 + b)) for a, b in ((x, y), (-x, -y)))
    assert score(asked, dog, kite).values["correct"] == 1.0
    assert score(asked, dog, mirrored).reason.startswith(f"expected kite {relation} target, found ")
    assert score(asked, kite).reason == f"expected dog>=1, found 0\nno target for kite to be {relation}"
    assert score(asked, dog, replace(kite, box=(102, 81, 132, 101))).reason == f"expected kite {relation} target, found  target"


def test_color_attributes() -> None:
    asked = item("color_attr", {"class": "car", "color": "red"}, {"class": "cow", "color": "blue"})
    car, cow = Drawn("car", (10, 10, 60, 60), "red"), Drawn("cow", (90, 10, 140, 60), "blue")
    assert score(asked, car, cow).values["correct"] == 1.0
    swapped = score(asked, replace(car, color="blue"), replace(cow, color="red"))
    assert swapped.reason == "expected red car>=1, found 0 red; and 1 blue\nexpected blue cow>=1, found 0 blue; and 1 red"
    assert score(asked, replace(car, color="blue")).reason == "expected red car>=1, found 0 red; and 1 blue\nexpected cow>=1, found 0"


def test_detail_holds_what_was_kept() -> None:
    asked = item("colors", {"class": "car", "color": "red"})
    verdict = score(
        asked,
        Drawn("car", (10, 10, 60, 60), "red", 0.8),
        Drawn("cow", (90, 90, 140, 140), score=0.31),
        Drawn("cow", (0, 0, 9, 9), score=0.3),
    )
    assert verdict.detail == {
        "kept": [
            {"name": "car", "score": 0.8, "box": [10.0, 10.0, 60.0, 60.0], "color": "red"},
            {"name": "cow", "score": 0.31, "box": [90.0, 90.0, 140.0, 140.0]},
        ]
    }


def test_identity_names_what_decides_a_score() -> None:
    changed = scorer(rules={"threshold": 0.25})
    assert scorer().identity["variant"] == "tests.eval.drawn_scenes"
    assert changed.identity["variant"] == "tests.eval.drawn_scenes threshold=0.25"
    assert changed.identity["rules"]["threshold"] == 0.25
    assert changed.identity["models"]["detector"] == {"repo": "drawn scenes"}
    scorer().check()
    assert geneval.calls({}, item("colors")) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"detector": "m2f"},
            "scoring.detector: m2f: no such detector; did you mean m2f-hf? it may be one of: m2f-hf; a dotted module is one",
        ),
        ({"colors": "flatland"}, "scoring.colors: flatland: no such colors; it may be one of: clip; a dotted module is one of your own"),
        ({"detector": "no.such.module"}, "scoring.detector: no.such.module: no module no in this environment; install it"),
        ({"detector": "json.decoder"}, "scoring.detector: json.decoder: the module has no load(); add one that returns a Detector"),
        ({"rule": {}}, "scoring.rule: no such setting; did you mean rules?"),
        ({"rules": {"threshhold": 0.3}}, "scoring.rules.threshhold: no such setting; did you mean threshold?"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        scorer(**options)
    assert str(caught.value).startswith(message)


def test_numbers_that_are_none_are_no_score() -> None:
    class Broken(Oracle):
        def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
            return [[Detection("car", float("nan"), (0, 0, 9, 9), np.ones((9, 9), bool))] for _ in images]

    broken = replace(scorer(), detector=Broken())
    with pytest.raises(UserError, match=r"detector tests.eval.drawn_scenes: a score or a box that is no number"):
        broken.score([(item("colors", {"class": "car"}), draw([]))])
