"""ImgEdit's prompts, pictures, texts and folders, in files of the official form."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item, Unscored, Verdict
from metabridge.eval.layouts import imgedit as layout
from tests.eval.rubric_judge import one, scorer

KINDS = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")


def data(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda rows: None, pictures: bool = True) -> Path:
    rows = {str(100 + i): {"id": f"animal/{i % 4}.jpg", "prompt": f"Change {i}", "edit_type": kind} for i, kind in enumerate(KINDS)}
    change(rows)
    (folder / "basic_edit.json").write_text(json.dumps(rows))
    texts = {
        kind: f"You rate {kind} edits {{0}}.\nObject {kind}: A number from 1 to 5.\nediting instruction is : <edit_prompt>."
        for kind in KINDS
    }
    (folder / "prompts.json").write_text(json.dumps(texts))
    if pictures:
        (folder / "Benchmark/singleturn/animal").mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20 + i, 10), "red").save(folder / f"Benchmark/singleturn/animal/{i}.jpg")
    return folder


@pytest.mark.parametrize("name", ["imgedit", "imgedit_v1"])
def test_prompts(name: str, tmp_path: Path) -> None:
    items = benchmarks.load(name).items(
        data(tmp_path, lambda rows: rows["101"].update(edit_type="alter" if name == "imgedit_v1" else "adjust"))
    )
    assert [item.group for item in items] == list(KINDS)
    assert items[1] == Item(1, "101", "adjust", "Change 1", {}, ("Benchmark/singleturn/animal/1.jpg",))


def test_missing_pictures_are_said_in_one_line(tmp_path: Path) -> None:
    folder = data(tmp_path)
    (folder / "Benchmark/singleturn/animal/1.jpg").unlink()
    (folder / "Benchmark/singleturn/animal/3.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        benchmarks.load("imgedit").items(folder)
    assert str(error.value) == (
        f"{folder}: 2 of 4 source pictures are not there or empty: Benchmark/singleturn/animal/1.jpg, Benchmark/singleturn/animal/3.jpg; "
        "unpack Benchmark.tar of the ImgEdit dataset there"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows["101"].update(edit_type="stlye"), "101: stlye: no such edit_type; did you mean style?"),
        (lambda rows: rows["101"].pop("prompt"), "101: no text in prompt; an entry is a mapping of id, prompt and edit_type"),
        (lambda rows: rows["101"].update(id="../../etc/passwd"), "101: id '../../etc/passwd' leads out of the folder of pictures"),
        (lambda rows: rows.update({"a/b": rows["101"]}), "a/b: the key is no name for a file; it has letters, digits, _ and -"),
        (lambda rows: rows.update({"7": 7}), "7: no text in id; an entry is a mapping of id, prompt and edit_type"),
    ],
)
def test_broken_files(change: Callable[[dict[str, Any]], Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        benchmarks.load("imgedit").items(data(tmp_path, change))
    assert str(error.value).startswith(f"{tmp_path}/basic_edit.json: {why}")


def test_the_judge_is_told_the_datas_own_text(tmp_path: Path) -> None:
    items = benchmarks.load("imgedit").items(data(tmp_path))
    made, judge = scorer("imgedit", "Brief reasoning: sharp\nObject Identity: 5\nMask Precision: 4\nVisual Quality: 3", data=tmp_path)
    verdict = one(made, items[2], Image.new("RGB", (7, 7)))
    assert isinstance(verdict, Verdict)
    assert verdict.values == {"first": 5, "second": 4, "third": 3, "score": 4}
    assert verdict.reason == "second 4 of 5, third 3 of 5; sharp"
    assert judge.texts() == ["You rate extract edits {0}.\nObject extract: A number from 1 to 5.\nediting instruction is : Change 2."]
    assert [picture.size for picture in judge.pictures()[0]] == [(22, 10), (7, 7)]  # source, then result as it is
    assert made.identity["variant"] == "judge-1"  # nothing of our own in it


def test_the_first_score_does_not_bound_the_others(tmp_path: Path) -> None:
    """It is asked of the judge, and not enforced."""
    items = benchmarks.load("imgedit").items(data(tmp_path))
    verdict = one(scorer("imgedit", "A: 1\nB: 5\nC: 5", data=tmp_path)[0], items[0])
    assert isinstance(verdict, Verdict) and verdict.values["score"] == 11 / 3


def test_half_an_answer(tmp_path: Path) -> None:
    """Our way asks again; the official script averages what is left, in one attempt, and leaves out what has nothing."""
    items = benchmarks.load("imgedit").items(data(tmp_path))
    half = "A: 5\nB: 4/5\nC: 4.5"
    made, judge = scorer("imgedit", half, half, half, data=tmp_path)
    assert isinstance(one(made, items[0]), Unscored) and len(judge.requests) == 3
    verdict = one(scorer("imgedit", half, data=tmp_path, compat="official")[0], items[0])
    assert isinstance(verdict, Verdict) and verdict.values == {"score": 5}
    made, judge = scorer("imgedit", "no score", data=tmp_path, compat="official")
    assert isinstance(one(made, items[0]), Unscored) and len(judge.requests) == 1


def test_texts_that_are_not_those(tmp_path: Path) -> None:
    items = benchmarks.load("imgedit").items(data(tmp_path))
    (tmp_path / "prompts.json").write_text('{"style": "editing instruction is : <edit_prompt>"}')
    with pytest.raises(UserError, match="the judge's texts have none for add; they have style"):
        one(scorer("imgedit", data=tmp_path)[0], items[0])
    for text, why in [('{"style": "x"}', "it is a mapping of groups to texts with <edit_prompt> in them"), ("{", "no valid JSON")]:
        (tmp_path / "prompts.json").write_text(text)
        with pytest.raises(UserError, match=why):
            scorer("imgedit", data=tmp_path)
    (tmp_path / "prompts.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        scorer("imgedit", data=tmp_path)


def test_folder(tmp_path: Path) -> None:
    items = benchmarks.load("imgedit").items(data(tmp_path))
    picture = tmp_path / "Benchmark/singleturn/animal/0.jpg"
    layout.export([(item, 0, picture) for item in items[:2]], tmp_path / "out")
    assert layout.pictures(items, tmp_path / "out") == {(i.group, i.id, 0): tmp_path / f"out/{i.id}.png" for i in items[:2]}


def test_results_of_the_official_scripts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = benchmarks.load("imgedit").items(data(tmp_path))
    said = {"100": "Brief reasoning: fine\nA: 5\nB: 4/5", "101": "no", "102": {"error": "timeout"}, "103": 3.33, "999": "A: 1"}
    (tmp_path / "result.json").write_text(json.dumps(said))
    with caplog.at_level(logging.INFO):
        found = layout.results(tmp_path / "result.json", items)
    assert found == [(("add", "100", 0), {"score": 5.0}, "fine"), (("replace", "103", 0), {"score": 3.33}, "")]
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "1 keys left out, of prompts that were not asked for",
        "2 keys without a score, as 101, 102; they are unscored",
    ]
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(UserError, match="no mapping of keys; give the JSON of the official script"):
        layout.results(tmp_path / "result.json", items)
