"""WISE's prompts and folders, in files of the official form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item
from metabridge.eval.layouts import wise as layout

LEGACY = {
    "culture": (1, 400),
    "time": (401, 567),
    "space": (568, 700),
    "biology": (701, 800),
    "physics": (801, 900),
    "chemistry": (901, 1000),
}
VERIFIED = {
    "culture": (1, 400),
    "time": (401, 520),
    "space": (521, 640),
    "biology": (641, 760),
    "physics": (761, 880),
    "chemistry": (881, 1000),
}
CATEGORY = {
    "culture": "Cultural knowledge",
    "time": "time",
    "space": "Space",
    "biology": "Biology",
    "physics": "Physical Knowledge",
    "chemistry": "Chemistry",
}


def rows(ids: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    return [
        {
            "Prompt": f"prompt {number}",
            "Explanation": f"shows {number}",
            "Category": CATEGORY[group],
            "Subcategory": f"{group} {number % 3}",
            "prompt_id": number,
        }
        for group, (first, last) in ids.items()
        for number in range(first, last + 1)
    ]


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, tree in files.items():
        (folder / name).write_text(json.dumps(tree))
    return folder


def three(
    folder: Path, ids: dict[str, tuple[int, int]] = LEGACY, ending: str = "", change: Callable[[list[Any]], Any] = lambda every: None
) -> Path:
    every = rows(ids)
    change(every)
    parts = {"cultural_common_sense": every[:400], "spatio-temporal_reasoning": every[400:700], "natural_science": every[700:]}
    return write(folder, {f"{name}{ending}.json": part for name, part in parts.items()})


@pytest.mark.parametrize(("name", "ending"), [("wise", ""), ("wise_rewrite", "_rewrite")])
def test_legacy(name: str, ending: str, tmp_path: Path) -> None:
    benchmark = benchmarks.load(name)
    items = benchmark.items(three(tmp_path, ending=ending))
    assert len(items) == benchmark.count and [item.number for item in items] == list(range(1000))
    assert Counter(item.group for item in items) == {group: last - first + 1 for group, (first, last) in LEGACY.items()}
    assert items[567] == Item(567, "568", "space", "prompt 568", {"explanation": "shows 568", "subcategory": "space 1"})


def test_verified(tmp_path: Path) -> None:
    benchmark = benchmarks.load("wise_verified")
    items = benchmark.items(write(tmp_path, {"merge.json": rows(VERIFIED)}))
    assert len(items) == benchmark.count
    assert Counter(item.group for item in items) == {
        "culture": 400,
        "time": 120,
        "space": 120,
        "biology": 120,
        "physics": 120,
        "chemistry": 120,
    }


def test_legacy_and_verified_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        benchmarks.load("wise").items(three(tmp_path, VERIFIED))
    assert str(error.value) == (
        f"{tmp_path}/spatio-temporal_reasoning.json: entry 121: prompt_id 521 is of time by its number and of 'Space' by its category; "
        "legacy and verified prompts have other numbers, give the files of one of the two"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda every: every[3].update(prompt_id=3), "cultural_common_sense.json: entry 4: prompt_id 3 is there already, "),
        (lambda every: every[3].update(prompt_id="4"), "cultural_common_sense.json: entry 4: prompt_id: '4' given; it is a whole number"),
        (
            lambda every: every[3].update(prompt_id=1001),
            "cultural_common_sense.json: entry 4: prompt_id 1001 is of no group; ids are 1 to 1000",
        ),
        (lambda every: every[3].update(Prompt=" "), "cultural_common_sense.json: entry 4: Prompt: text given; it is text"),
        (lambda every: every[3].pop("Explanation"), "cultural_common_sense.json: entry 4: Explanation: nothing given; it is text"),
        (
            lambda every: every.__setitem__(3, "x"),
            "cultural_common_sense.json: entry 4: text given; it is a mapping of prompt_id, Prompt, Expl",
        ),
    ],
)
def test_broken_files(change: Callable[[list[Any]], Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        benchmarks.load("wise").items(three(tmp_path, change=change))
    assert str(error.value).startswith(f"{tmp_path}/{why}")


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cultural_common_sense\.json: cannot be read"):
        benchmarks.load("wise").items(tmp_path)
    with pytest.raises(UserError, match=r"wise: no data folder given; it holds merge\.json"):
        benchmarks.load("wise_verified").items(None)


# The official folder and the official results.


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    (tmp_path / "data").mkdir()
    return benchmarks.load("wise").items(three(tmp_path / "data"))


def test_pictures_there_and_back(items: list[Item], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    Image.new("RGB", (4, 4), "red").save(drawn)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "drawn.jpg")
    layout.export([(items[0], 0, drawn), (items[700], 0, tmp_path / "drawn.jpg")], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.png", "701.png"]
    found = layout.pictures(items, tmp_path / "out")
    assert found == {("culture", "1", 0): tmp_path / "out/1.png", ("biology", "701", 0): tmp_path / "out/701.png"}
    with Image.open(found["biology", "701", 0]) as image:
        assert (image.format, image.size) == ("PNG", (4, 4))


def test_a_folder_of_something_else(items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        layout.pictures(items, tmp_path)
    assert str(error.value) == f"{tmp_path}: no picture of 1000 prompts there; give one that holds 1.png, 2.png and so on"
    with pytest.raises(UserError, match=r"no such folder; give one that holds 1\.png"):
        layout.pictures(items, tmp_path / "none")
    with pytest.raises(UserError, match="1: more than one picture; this layout has one a prompt"):
        layout.export([(items[0], 1, tmp_path / "a.png")], tmp_path / "out")


def line(number: int, **scores: float) -> str:
    return json.dumps({"prompt_id": number, "Subcategory": f"{'culture' if number <= 400 else 'time'} {number % 3}", **scores}) + "\n"


def test_results_of_the_official_script(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "cultural_common_sense_scores_results.jsonl").write_text(line(1, consistency=2.0, realism=1.0, aesthetic_quality=3.0))
    (tmp_path / "spatio-temporal_reasoning_results.jsonl").write_text(line(401, consistency=0, realism=0, aesthetic_quality=0))
    (tmp_path / "cultural_common_sense_full_results.json").write_text("[]")
    found = layout.results(tmp_path, items)
    assert found == [
        (("culture", "1", 0), {"consistency": 2, "realism": 1, "aesthetic_quality": 3, "wiscore": (0.7 * 2 + 0.2 * 1 + 0.1 * 3) / 2}, ""),
        (("time", "401", 0), {"consistency": 0, "realism": 0, "aesthetic_quality": 0, "wiscore": 0}, ""),
    ]
    (tmp_path / "verified.jsonl").write_text(line(1, score=1.0) + line(2, score=0.0))
    assert [(key[1], values) for key, values, _ in layout.results(tmp_path / "verified.jsonl", items[:1])] == [("1", {"score": 1.0})]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (line(1, score=1) * 2, "line 2: prompt_id 1 a second time; give the results of one run"),
        (
            line(1, score=1).replace("culture 1", "Animal"),
            "line 1: prompt 1 is of 'Animal' there and of 'culture 1' here; wise, wise_rewrite and",
        ),
        (line(1, consistency=2), "line 1: realism: None given; it is a number"),
        ("{}\n", "line 1: no prompt_id or Subcategory; give a file or the folder of *_scores_results.jsonl"),
        ("", "line 1: no valid JSON"),
    ],
)
def test_other_results(text: str, why: str, items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError) as error:
        layout.results(tmp_path / "a.jsonl", items)
    assert str(error.value).startswith(f"{tmp_path}/a.jsonl: {why}")
