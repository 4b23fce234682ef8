"""GenEval's prompt files as items, and what is wrong with a broken one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval import data as data_files
from metabridge.eval.detect import clip_colors, mask2former
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


@pytest.mark.parametrize("name", ["geneval", "geneval_long"])
def test_the_benchmarks_are_what_their_files_say(test_data: Path, name: str) -> None:
    benchmark, folder = benchmarks.load(name), test_data / "bench_data" / "geneval"
    items = benchmark.items(folder)
    assert len(items) == benchmark.count == 553
    assert Counter(item.group for item in items) == NUMBERS
    assert tuple(benchmark.groups) == tuple(NUMBERS) == TAGS
    assert [item.number for item in items] == list(range(553))
    assert [item.id for item in items] == [f"{number:05d}" for number in range(553)]
    assert len({item.text for item in items}) == 553
    assert benchmark.data is not None
    assert {file.state for file in data_files.verify(benchmark.data, folder)} == {"ok"}
    assert [(folder / file.name).stat().st_size for file in benchmark.data.files] == [file.bytes for file in benchmark.data.files]
    assert benchmark.models == {"detector": mask2former.REPO, "clip": clip_colors.REPO}
    assert {row.metric for row in benchmark.published} == {benchmark.metrics[0].name}


def test_long_prompts_ask_for_the_same(test_data: Path) -> None:
    short, long = (benchmarks.load(name).items(test_data / "bench_data" / "geneval") for name in ("geneval", "geneval_long"))
    assert [(item.group, item.want) for item in short] == [(item.group, item.want) for item in long]
    assert all(len(a.text) < len(b.text) for a, b in zip(short, long, strict=True))


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
    with pytest.raises(UserError, match=r"prompts.fil: no such setting; did you mean file"):
        geneval.load({"fil": "x"}, data)
