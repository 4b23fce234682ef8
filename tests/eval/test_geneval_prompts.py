"""GenEval's prompt files as items, and what is wrong with a broken one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from metabridge.bridge.errors import UserError
from metabridge.eval.readers import geneval
from metabridge.eval.scorers.geneval_rules import TAGS

NUMBERS = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
BENCH = {"class": "bench", "count": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "object_names.txt").write_text("bench\ncomputer mouse\ndog\n")
    return tmp_path


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def spec(name: str) -> dict[str, Any]:
    return yaml.safe_load((files("metabridge.eval") / "benchmarks" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["geneval", "geneval_long"])
def test_the_benchmarks_are_what_their_files_say(test_data: Path, name: str) -> None:
    tree, folder = spec(name), test_data / "bench_data" / "geneval"
    options = {key: value for key, value in tree["prompts"].items() if key not in ("reader", "count")}
    items = geneval.load(options, folder)
    assert len(items) == tree["prompts"]["count"] == 553
    assert Counter(item.group for item in items) == NUMBERS
    assert tuple(tree["groups"]) == tuple(NUMBERS) == TAGS
    assert [item.number for item in items] == list(range(553))
    assert [item.id for item in items] == [f"{number:05d}" for number in range(553)]
    assert len({item.text for item in items}) == 553
    for file in tree["data"]["files"]:
        content = (folder / file["name"]).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])


def test_long_prompts_ask_for_the_same(test_data: Path) -> None:
    folder = test_data / "bench_data" / "geneval"
    short, long = (geneval.load({"file": spec(name)["prompts"]["file"]}, folder) for name in ("geneval", "geneval_long"))
    assert [(item.group, item.want) for item in short] == [(item.group, item.want) for item in long]
    assert all(len(a.text) < len(b.text) for a, b in zip(short, long, strict=True))


def test_the_models_named_are_the_ones_loaded() -> None:
    from metabridge.eval.detect import clip_colors, mask2former

    for name in ("geneval", "geneval_long"):
        assert spec(name)["models"] == {"detector": mask2former.REPO, "clip": clip_colors.REPO}


def test_an_item_is_a_line(data: Path) -> None:
    rows = [
        {"tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}], "prompt": "two dogs"},
        {"tag": "position", "include": [BENCH, {"class": "dog", "count": 1, "position": ["above", 0]}], "prompt": "a\u2028dog"},
    ]
    write(data, *(json.dumps(row, ensure_ascii=False) for row in rows))
    first, second = geneval.load({}, data)
    assert (first.number, first.id, first.group, first.text) == (0, "00000", "counting", "two dogs")
    assert first.want == {"include": rows[0]["include"], "exclude": rows[0]["exclude"]}
    assert (second.text, second.want) == ("a\u2028dog", {"include": rows[1]["include"]})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{'tag'", "no valid JSON (Expecting property name"),
        ([1], "a list given; it is a mapping of tag, include, exclude and prompt"),
        ({"tags": "colors"}, "tags: no such setting; did you mean tag? it may be one of: exclude, include, prompt, tag"),
        ({"tag": "colour"}, "tag: colour: no such value; did you mean colors?"),
        ({"tag": "colors", "prompt": ""}, "prompt: nothing given; it is text"),
        ({"tag": "colors", "prompt": "x"}, "no clause in include or exclude; every picture would be right"),
        ({"tag": "colors", "prompt": "x", "include": {}}, "include: a mapping given; it is a list of clauses"),
        ({"tag": "colors", "prompt": "x", "include": ["dog"]}, "include 0: text given; it is a mapping with class and count"),
        (
            {"tag": "colors", "prompt": "x", "include": [BENCH, {"class": "mouse", "count": 1}]},
            "include 1: class: mouse: no such value; it may be",
        ),
        (
            {"tag": "colors", "prompt": "x", "include": [{"class": "dog", "count": 0}]},
            "include 0: count: 0 given; it is a whole number, 1 at",
        ),
        ({"tag": "colors", "prompt": "x", "include": [{**BENCH, "color": "teal"}]}, "include 0: color: teal: no such value;"),
        ({"tag": "colors", "prompt": "x", "exclude": [{**BENCH, "color": "red"}]}, "exclude 0.color: no such setting;"),
        (
            {"tag": "position", "prompt": "x", "include": [{**BENCH, "position": ["above", 0]}]},
            "include 0: position: ['above', 0] given; it",
        ),
        (
            {"tag": "position", "prompt": "x", "include": [BENCH, {**BENCH, "position": ["over", 0]}]},
            "include 1: position: over: no such value;",
        ),
        ("", "no valid JSON (Expecting value"),
    ],
)
def test_a_broken_line_is_named(data: Path, row: Any, message: str) -> None:
    path = write(data, {"tag": "colors", "include": [BENCH], "prompt": "a bench"}, row, {"tag": "x"})
    with pytest.raises(UserError) as caught:
        geneval.load({}, data)
    said = str(caught.value).removeprefix(f"{path}: line 2").lstrip(":. ")
    assert str(caught.value).startswith(f"{path}: line 2") and said.startswith(message)


def test_missing_files_are_named(data: Path) -> None:
    with pytest.raises(UserError, match=r"other.jsonl: cannot be read \(No such file or directory\); fetch the benchmark's data again"):
        geneval.load({"file": "other.jsonl"}, data)
    with pytest.raises(UserError, match="geneval: no data folder given"):
        geneval.load({}, None)
    with pytest.raises(UserError, match="prompts.fil: no such setting; did you mean file"):
        geneval.load({"fil": "x"}, data)
