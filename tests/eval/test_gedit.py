"""GEdit-Bench's prompts from Parquet files and lists, its tree of folders and the official script's CSV files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks
from metabridge.eval.items import Item
from metabridge.eval.layouts import gedit as layout
from metabridge.eval.readers.gedit import TASKS


def picture(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 8), "red").save(buffer, "PNG")
    return buffer.getvalue()


def table(tasks: tuple[str, ...] = TASKS) -> list[dict[str, Any]]:
    return [
        {
            "key": f"{language}{number}",
            "task_type": task,
            "instruction": f"{language} edit {number}",
            "instruction_language": language,
            "Intersection_exist": number % 2 == 0,
            "input_image_raw": {"bytes": picture(20 + number), "path": None},
            "input_image": {"bytes": picture(10 + number), "path": "x.png"},
        }
        for number, task in enumerate(tasks)
        for language in ("en", "cn")
    ]


def hub(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    half = len(rows) // 2
    for name, part in (("train-00000-of-00002", rows[:half]), ("train-00001-of-00002", rows[half:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), folder / "data" / f"{name}.parquet")
    return folder


@pytest.mark.parametrize(("name", "language"), [("gedit_en", "en"), ("gedit_cn", "cn")])
def test_parquet_is_unpacked_once(name: str, language: str, tmp_path: Path) -> None:
    benchmark = benchmarks.load(name)
    items = benchmark.items(hub(tmp_path, table()))
    assert [item.group for item in items] == list(TASKS) == list(benchmark.groups)
    want = {"intersection": False, "language": language, "source": f"images/{language}/{language}3_SRCIMG.png"}
    assert items[3] == Item(3, f"{language}3", "motion_change", f"{language} edit 3", want, (f"images/{language}/{language}3.png",))
    for path, width in ((items[3].images[0], 23), (items[3].want["source"], 13)):  # edited; shown to the judge
        with Image.open(tmp_path / path) as image:
            assert image.size == (width, 8)
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    assert benchmark.items(tmp_path) == items


def test_a_list_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(9))
    row = {
        "key": "k",
        "task_type": "ps_human",
        "instruction": "Smile",
        "instruction_language": "en",
        "Intersection_exist": True,
        "file_name": "a.png",
    }
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert benchmarks.load("gedit_en").items(tmp_path) == [
        Item(0, "k", "ps_human", "Smile", {"intersection": True, "language": "en"}, ("a.png",))
    ]
    with pytest.raises(UserError, match="no row of instruction_language cn"):
        benchmarks.load("gedit_cn").items(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"1 of 1 source pictures are not there or empty: a\.png; remove metadata\.jsonl"):
        benchmarks.load("gedit_en").items(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[2].update(key="en0"), "metadata.jsonl: line 3: key en0 is there already, "),
        (lambda rows: rows[2].update(key="../../x"), "FIRST: row 3: key '../../x' is no name for a file"),
        (lambda rows: rows[2].update(task_type="colour"), "FIRST: row 3: colour: no such task_type; it may be one of: background_change, "),
        (lambda rows: rows[2].update(instruction=""), "FIRST: row 3: no text in instruction"),
        (lambda rows: rows[12].update(Intersection_exist=None), "SECOND: row 2: Intersection_exist: None given"),
        (lambda rows: rows[2].update(input_image=None), "FIRST: row 3: a picture without bytes; get them with: hf download"),
        (lambda rows: [row.pop("input_image") for row in rows], "FIRST: no column input_image; it has "),
    ],
)
def test_broken_files(change: Callable[[list[dict[str, Any]]], Any], why: str, tmp_path: Path) -> None:
    rows = table()
    change(rows)
    with pytest.raises(UserError) as error:
        benchmarks.load("gedit_en").items(hub(tmp_path, rows))
    for name, file in (("FIRST", "data/train-00000-of-00002.parquet"), ("SECOND", "data/train-00001-of-00002.parquet")):
        why = why.replace(name, file)
    assert str(error.value).startswith(f"{tmp_path}/{why}")
    assert not (tmp_path.parent / "x.png").exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither metadata\.jsonl nor Parquet files there; get them with: hf download"):
        benchmarks.load("gedit_en").items(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        benchmarks.load("gedit_en").items(tmp_path)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return benchmarks.load("gedit_en").items(hub(tmp_path, table(TASKS[:3])))


def test_tree(items: list[Item], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout.export([(item, 0, tmp_path / item.images[0]) for item in items[:2]], tmp_path / "out")
    assert "<key>_SRCIMG.png" in caplog.text
    assert layout.pictures(items, tmp_path / "out") == {
        ("background_change", "en0", 0): tmp_path / "out/fullset/background_change/en/en0.png",
        ("color_alter", "en1", 0): tmp_path / "out/fullset/color_alter/en/en1.png",
    }


def write_csv(path: Path, *rows: dict[str, Any]) -> Path:
    names = [
        "source_image",
        "edited_image",
        "instruction",
        "sementics_score",
        "quality_score",
        "intersection_exist",
        "instruction_language",
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(item: Item, **changes: Any) -> dict[str, Any]:
    path = f"/results/model/fullset/{item.group}/{item.want['language']}/{item.id}.png"
    scores = {"sementics_score": 8, "quality_score": 2.0, "intersection_exist": item.want["intersection"], "instruction_language": "en"}
    return {"source_image": path, "edited_image": path, "instruction": item.text, **scores, **changes}


def test_results_of_the_official_script(items: list[Item], tmp_path: Path) -> None:
    folder = tmp_path / "eval_results_new"
    folder.mkdir()
    write_csv(folder / "m_background_change_gpt_score.csv", row(items[0]))
    chinese = row(items[1], edited_image="x/color_alter/cn/cn1.png", instruction="cn edit 1")
    write_csv(folder / "m_color_alter_gpt_score.csv", row(items[1], sementics_score=0), chinese)
    write_csv(folder / "m_combined_gpt_score.csv", row(items[0]), row(items[1]))
    found = layout.results(folder, items)
    overall = math.sqrt(8 * 2)
    assert found == [
        (
            ("background_change", "en0", 0),
            {"semantics": 8, "quality": 2, "overall": overall, "intersection": overall, "intersection.of": 1},
            "",
        ),
        (("color_alter", "en1", 0), {"semantics": 0, "quality": 2, "overall": 0, "intersection": 0, "intersection.of": 0}, ""),
    ]
    assert len(layout.results(folder / "m_combined_gpt_score.csv", items)) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sementics_score": ""}, "line 2: sementics_score: '' given; it is a number, 0 at least"),
        ({"quality_score": "nan"}, "line 2: quality_score: 'nan' given; it is a number, 0 at least"),
        ({"edited_image": "a.png"}, "line 2: edited_image: 'a.png' given; it ends in <task>/<language>/<key>.png"),
        ({"instruction": "other"}, "line 2: 'other' is not the instruction of en0, 'en edit 0'"),
    ],
)
def test_other_results(change: dict[str, Any], why: str, items: list[Item], tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", row(items[0], **change))
    with pytest.raises(UserError) as error:
        layout.results(path, items)
    assert str(error.value) == f"{path}: {why}"


def test_results_of_something_else(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column edited_image, instruction, "):
        layout.results(tmp_path / "r.csv", items)
    with pytest.raises(UserError, match="a second time"):
        layout.results(write_csv(tmp_path / "r.csv", row(items[0]), row(items[0])), items)
    with pytest.raises(UserError, match=r"no \*_gpt_score\.csv there"):
        layout.results(tmp_path, items)
