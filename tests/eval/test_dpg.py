"""DPG-Bench's prompts and graph as they are read, its folder of grids, and its number."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, plan, result
from metabridge.eval import score as scores
from metabridge.eval.generate import generate
from metabridge.eval.items import OK, Item, Services
from metabridge.eval.layouts import dpg as layout
from metabridge.eval.plan import Sample
from metabridge.eval.readers import dpg as reader
from metabridge.eval.score import Scored
from metabridge.eval.scorers import questions
from metabridge.eval.subjects import pictures
from tests.eval.scripted_judge import ScriptedJudge

COLUMNS = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple"]
COLUMNS.append("question_natural_language")
Row = tuple[str, str, int, str, str, str]  # id, prompt, question, dependency, category, its text
ROWS: list[Row] = [
    ("partiprompts97", "A red car.", 1, "0", "entity", "Is there a car?"),
    ("partiprompts97", "A red car.", 2, "1", "attribute", "Is the car red?"),
    ("10", ' A "sunny" day,\nat noon.\n', 1, "2", "relation", "Is it noon, and sunny?"),
    ("10", ' A "sunny" day,\nat noon.\n', 2, "3", "attribute", "Is the day sunny?"),
    ("10", ' A "sunny" day,\nat noon.\n', 3, "0", "global", "Is it day?"),
    ("9", "A cat.", 1, "0", "entity", "Is there a cat?"),
    ("9", "A cat.", 2, "0", "entity", "Is there a tail?"),
    ("9", "A cat.", 3, "1, 2", "relation", "Is the tail the cat's?"),
]


def write(folder: Path, rows: Sequence[Row] = ROWS, columns: Sequence[str] = COLUMNS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / reader.GRAPH).open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, columns, extrasaction="ignore")
        lines.writeheader()
        for key, text, number, dependency, category, question in rows:
            values = [key, text, "k", number, dependency, category, "part", "t", question]
            lines.writerow(dict(zip(COLUMNS, values, strict=True)))
    return folder


def lines_of(prompts: Mapping[str, str]) -> str:
    return "".join(json.dumps({"item_id": key, "prompt": text}) + "\n" for key, text in prompts.items())


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        reader.load(options, folder)
    return str(error.value)


def test_questions_of_the_file(tmp_path: Path) -> None:
    items = reader.load({}, write(tmp_path))
    assert [(item.number, item.id, item.group, item.text) for item in items] == [
        (0, "10", "dense", 'A "sunny" day,\nat noon.'),
        (1, "9", "dense", "A cat."),
        (2, "partiprompts97", "dense", "A red car."),
    ]
    assert items[0].want["questions"] == [
        {"id": 1, "text": "Is it noon, and sunny?", "parents": [2], "facets": ["relation"]},
        {"id": 2, "text": "Is the day sunny?", "parents": [3], "facets": ["attribute"]},
        {"id": 3, "text": "Is it day?", "parents": [], "facets": ["global"]},
    ]
    assert items[1].want["questions"][2]["parents"] == [1, 2]
    assert [question.get("first_row", False) for item in items for question in item.want["questions"]] == [False] * 6 + [True, False]
    assert [questions.calls({}, item) for item in items] == [3, 3, 2]


def test_prompts_are_the_same_wherever_they_are_read(tmp_path: Path) -> None:
    """The column, the lines and the folder, each before the one it follows here; a byte order mark is no part of a name."""
    data = write(tmp_path)
    first = reader.load({}, data)
    (data / reader.LINES).write_text(lines_of({row[0]: row[1] for row in ROWS}))
    assert reader.load({}, data) == first
    (data / reader.FOLDER).mkdir()
    for key, text, *_ in ROWS:
        (data / reader.FOLDER / f"{key}.txt").write_text(text)
    (data / reader.LINES).write_text("broken")
    (data / reader.GRAPH).write_bytes(b"\xef\xbb\xbf" + (data / reader.GRAPH).read_bytes())
    assert reader.load({}, data) == first
    pinned = reader.digest({item.id: item.text for item in first})
    assert reader.load({"sha256": pinned}, data) == first
    (data / reader.FOLDER / "9.txt").write_text("A dog.")
    line = f"{data}: its 3 prompts are not those of the benchmark (sha256 "
    assert refusal(data, sha256=pinned).startswith(line) and f"pinned is {pinned[:12]}..." in refusal(data, sha256=pinned)


def test_all_prompts_of_the_benchmark(test_data: Path, tmp_path: Path) -> None:
    """With a question made up for each, as the official file of questions is not at hand."""
    lines = (test_data / "bench_data" / "dpg_bench" / "dpg_prompts.jsonl").read_text(encoding="utf-8")
    keys = [json.loads(line)["item_id"] for line in lines.splitlines()]
    write(tmp_path, [(key, "", 1, "0", "entity", "Is it there?") for key in reversed(keys)])
    (tmp_path / reader.LINES).write_text(lines, encoding="utf-8")
    benchmark = benchmarks.load("dpg")
    items = benchmark.items(tmp_path)
    assert len(items) == benchmark.count == 1065 and [item.id for item in items] == sorted(keys)
    assert benchmark.data is not None and benchmark.data.files[0].git_blob_sha1 == "98457fc9901943f51ff9a30367250fc292533bed"


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (("a", "t", 1, "0", "entity", ""), "question_natural_language: nothing given; it is text"),
        (("a", "t", 1, "0", " ", "Q?"), "category_broad: nothing given; it is text"),
        (
            ("a", "t", 1, "one", "entity", "Q?"),
            "dependency: 'one' given; it is a whole number, or several with commas between them; 0 is none",
        ),
        (("a", "t", 1, "", "entity", "Q?"), "dependency: '' given; it is a whole number"),
        (("a", "t", 1, "0,-1", "entity", "Q?"), "dependency: '-1' given; it is a whole number"),
        (("a", "t", "1.5", "0", "entity", "Q?"), "proposition_id: '1.5' given; it is a whole number"),
        (("a/b", "t", 1, "0", "entity", "Q?"), "item_id: 'a/b' given; it is a name of letters, digits, _ and -"),
        (("partiprompts97", "t", 2, "0", "entity", "Q?"), "question 2 of partiprompts97 a second time"),
    ],
)
def test_a_bad_row_is_named(row: Row, line: str, tmp_path: Path) -> None:
    write(tmp_path, [*ROWS[:2], row])
    assert refusal(tmp_path).startswith(f"{tmp_path / reader.GRAPH}: line 4: {line}")


def test_bad_files_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path / reader.GRAPH}: cannot be read (No such file or directory); fetch the benchmark's data again"
    write(tmp_path, columns=COLUMNS[:4] + COLUMNS[5:])
    assert refusal(tmp_path).startswith(f"{tmp_path / reader.GRAPH}: no column dependency; its first line names item_id, text, ")
    write(tmp_path, [*ROWS, ("9", "A cat.", 4, "7,5", "entity", "Is it?")])
    assert refusal(tmp_path) == f"{tmp_path / reader.GRAPH}: 9: question 4 depends on 5, which is not there"
    (tmp_path / reader.GRAPH).write_text(",".join(COLUMNS) + '\n1,"a,k,1,0,entity,part,t,Q?\n')
    assert f"{tmp_path / reader.GRAPH}: line 2: no valid CSV (" in refusal(tmp_path)
    (tmp_path / reader.GRAPH).write_text(",".join(COLUMNS) + "\n1,a,k\n")
    assert refusal(tmp_path) == f"{tmp_path / reader.GRAPH}: line 2: category_broad: nothing given; it is text"
    with pytest.raises(UserError, match=r"^dpg: no data folder given; "):
        reader.load({}, None)


def test_bad_prompts_are_named(tmp_path: Path) -> None:
    data, lines = write(tmp_path), tmp_path / reader.LINES
    prompts = {row[0]: row[1].strip() for row in ROWS}
    for text, line in [
        (lines_of(prompts) + "{", f"{lines}: line 4: no valid JSON ("),
        (lines_of(prompts) + "[]", f"{lines}: line 4: a list given; it is a mapping of item_id and prompt"),
        (lines_of(prompts) + lines_of({"9": "A cat."}), f"{lines}: line 4: item_id 9 a second time"),
        (lines_of(prompts | {"11": "More."}), f"{data}: no question for 1 of 4 ids, the first is 11; fetch "),
        (lines_of({"9": "A cat."}), f"{data}: no prompt for 2 of 3 ids, the first is partiprompts97; fetch "),
    ]:
        lines.write_text(text)
        assert refusal(data).startswith(line)
    lines.unlink()
    write(tmp_path, [("9", " ", 1, "0", "entity", "Is it?")])
    assert refusal(data) == f"{data}: the prompt of 9 is empty; fetch the prompts again"


def drawn(items: Sequence[Item], folder: Path, side: int = 6) -> list[tuple[Item, int, Path]]:
    """Four pictures of each, all different."""
    folder.mkdir()
    rows = []
    for item in items:
        for k in range(4):
            path = folder / f"{item.id}-{k}.png"
            Image.new("RGB", (side, side), (50 * item.number, 60 * k, 7)).save(path)
            rows.append((item, k, path))
    return rows


def test_grids_out_and_in(tmp_path: Path) -> None:
    """As the official scorer cuts them: (0, 0), (r, 0), (0, r), (r, r)."""
    items = reader.load({}, write(tmp_path / "data"))
    rows = drawn(items, tmp_path / "own")
    layout.export(rows, tmp_path / "grids")
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == ["10.png", "9.png", "partiprompts97.png"]
    with Image.open(tmp_path / "grids" / "9.png") as grid:
        assert grid.size == (12, 12)
        assert [grid.getpixel(corner) for corner in ((0, 0), (6, 0), (0, 6), (6, 6))] == [(50, 60 * k, 7) for k in range(4)]
    found = layout.pictures(items[1:], tmp_path / "grids")
    assert list(found) == [(item.group, item.id, k) for item in items[1:] for k in range(4)]
    for item, k, path in rows[4:]:
        with Image.open(path) as own, Image.open(found[item.group, item.id, k]) as cut:
            assert own.tobytes() == cut.tobytes()
    assert {path.parent for path in found.values()} == {tmp_path / "grids-tiles"}


def test_tiles_are_cut_again_only_where_a_grid_has_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = reader.load({}, write(tmp_path / "data"))
    layout.export(drawn(items, tmp_path / "own"), tmp_path / "grids")
    first = layout.pictures(items, tmp_path / "grids")
    assert caplog.messages == [f"{tmp_path / 'grids'}: 3 pictures taken for grids of 2 x 2, and cut into {tmp_path / 'grids-tiles'}"]
    before = {key: path.stat().st_mtime_ns for key, path in first.items()}
    (tmp_path / "grids-tiles" / "9-2.png").unlink()
    Image.new("RGB", (4, 4), "white").save(tmp_path / "grids" / "10.png")
    os.utime(tmp_path / "grids" / "10.png", (0, 0))  # older than its tiles
    again = layout.pictures(items, tmp_path / "grids")
    changed = {key[1] for key, path in again.items() if path.stat().st_mtime_ns != before[key]}
    assert again == first and changed == {"9", "10"}
    with Image.open(again["dense", "10", 3]) as tile:
        assert (tile.size, tile.getpixel((0, 0))) == ((2, 2), (255, 255, 255))


def test_bad_grids(tmp_path: Path) -> None:
    items = reader.load({}, write(tmp_path / "data"))
    rows = drawn(items, tmp_path / "own")
    with pytest.raises(UserError, match=r"^10: pictures 0, 1 given; a grid holds 4, from 0 to 3: draw 4 of each prompt$"):
        layout.export(rows[:2], tmp_path / "grids")
    Image.new("RGB", (6, 4)).save(rows[9][2])
    with pytest.raises(UserError, match=r"partiprompts97-1.png: 6x4; the pictures of all grids are squares of one size$"):
        layout.export(rows, tmp_path / "grids")
    (tmp_path / "empty").mkdir()
    for folder, line in [
        ("none", "no such folder; give one that holds a grid a prompt, as 10.png"),
        ("empty", "no grid of 3 prompts there; "),
    ]:
        with pytest.raises(UserError, match=f"^{tmp_path / folder}: {line}"):
            layout.pictures(items, tmp_path / folder)
    Image.new("RGB", (6, 7)).save(tmp_path / "empty" / "9.png")
    with pytest.raises(UserError, match=r"9.png: 6x7; a grid of 2 x 2 squares has an even side, and is as high as wide$"):
        layout.pictures(items, tmp_path / "empty")
    (tmp_path / "empty" / "9.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"9.png: no picture that can be read \("):
        layout.pictures(items, tmp_path / "empty")


def test_from_a_folder_of_grids_to_the_result(tmp_path: Path) -> None:
    """Through the harness's own stages: whoever drew the grids is scored picture by picture."""
    tree = yaml.safe_load((Path(benchmarks.__file__).parent / "dpg.yaml").read_text(encoding="utf-8"))
    tree["prompts"] = {"reader": "dpg", "count": 3}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    benchmark, data = benchmarks.load(str(tmp_path / "small.yaml")), write(tmp_path / "data")
    layout.export(drawn(benchmark.items(data), tmp_path / "own"), tmp_path / "grids")
    subject = pictures.load(str(tmp_path / "grids"), benchmark=benchmark, data=data)
    planned = plan.save(plan.make(benchmark, subject.identity, {}, {}, data=data), tmp_path / "out")
    generate(planned, tmp_path / "out", subject)
    replayed = {"kind": "replay", "id": "scripted-1", "revision": "r", "host": None}
    judge = ScriptedJudge({row[5]: "no" if row[5] == "Is the car red?" else "yes" for row in ROWS}, identity=replayed)
    scorer = questions.load(benchmark.scorer_options, Services(data, judge))
    scores.score(planned, tmp_path / "out", scorer)
    assert len(judge.asked) == sum(questions.calls({}, sample.item) for sample in planned.samples()) == 4 * 8
    found = result.summarize(
        planned,
        scores.read(planned, tmp_path / "out", scores.tag(scores.identity_of(planned, scorer))),
        scorer.identity,
        Services(data),
        {},
    )
    assert found["variant"] == "small/scripted-1" and found["pictures"] == {"ok": 12, "model_error": 0, "infra_error": 0}
    assert found["scores"]["score"]["overall"]["value"] == pytest.approx(100 * (1 + 1 + 1 / 2) / 3, abs=1e-5)
    categories = {name: cell["value"] for name, cell in found["facets"]["bridge"].items()}
    assert categories == {"entity": 1.0, "attribute": 0.5, "relation": 1.0, "global": 1.0}


def score(items: Sequence[Item], answers: Mapping[str, Sequence[str]], compat: str = "none") -> dict[str, Any]:
    """The headline of two pictures a prompt; a question's answer on each."""
    rows = []
    for k in range(2):
        judge = ScriptedJudge({question: said[k] for question, said in answers.items()})
        verdicts = questions.load({}, Services(None, judge, compat=compat)).score([(item, Image.new("RGB", (4, 4))) for item in items])
        for item, verdict in zip(items, verdicts, strict=True):
            assert not isinstance(verdict, Exception)
            rows.append(Scored(Sample("bridge", item, k, 0), OK, verdict.values, verdict.reason, None, facets=verdict.facets))
    benchmark = benchmarks.load("dpg")
    cell: dict[str, Any] = result.group(rows, benchmark.metrics[0], benchmark, {})["overall"]
    return cell


def test_the_number_is_the_mean_of_prompts(tmp_path: Path) -> None:
    """Prompt 10: (1 + 0) / 2, as its children fall with "Is it day?"; 9: (2/3 + 1/3) / 2; partiprompts97: (1 + 1/2) / 2.

    Officially the last child of prompt 10, which is the first in the file, does not fall; and partiprompts97 is left out.
    """
    items = reader.load({}, write(tmp_path))
    answers = {
        **{"Is it noon, and sunny?": ("yes", "yes"), "Is the day sunny?": ("yes", "yes"), "Is it day?": ("yes", "no")},
        **{"Is there a cat?": ("yes", "no"), "Is there a tail?": ("yes", "yes"), "Is the tail the cat's?": ("no", "yes")},
        **{"Is there a car?": ("yes", "yes"), "Is the car red?": ("yes", "no")},
    }
    ours, official = score(items, answers), score(items, answers, "official")
    assert (ours["value"], ours["prompts"]) == (pytest.approx(100 * (1 / 2 + 1 / 2 + 3 / 4) / 3, abs=1e-5), 3)
    assert (official["value"], official["prompts"]) == (pytest.approx(100 * ((1 + 1 / 3) / 2 + 1 / 2) / 2, abs=1e-5), 2)
