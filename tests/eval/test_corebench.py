"""T2I-CoReBench's prompts as they are read, its folder, and its number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, result
from metabridge.eval.items import INFRA_ERROR, MODEL_ERROR, OK, Item, Services, Unscored
from metabridge.eval.judges import JudgeError
from metabridge.eval.layouts import corebench as layout
from metabridge.eval.plan import Sample
from metabridge.eval.readers import corebench as reader
from metabridge.eval.score import Scored
from metabridge.eval.scorers import questions
from tests.eval.scripted_judge import Said, ScriptedJudge


@pytest.fixture
def data(test_data: Path) -> Path:
    return test_data / "bench_data" / "t2i_corebench"


def test_every_prompt_and_question(data: Path) -> None:
    benchmark = benchmarks.load("t2i_corebench")
    items = benchmark.items(data)
    assert len(items) == benchmark.count == 1080
    assert [item.number for item in items] == list(range(1080)) and len({item.id for item in items}) == 1080
    assert sum(questions.calls(benchmark.scorer_options, item) for item in items) == 13_536
    assert list(benchmark.groups) == list(dict.fromkeys(item.group for item in items)) == list(reader.DIMENSIONS)
    assert {sum(item.group == group for item in items) for group in benchmark.groups} == {90}
    first = items[360]
    assert (first.id, first.group, first.text[:41]) == ("R-LR-001", "R-LR", "Generate an image showing four containers")
    assert first.want["questions"][0] == {"id": 1, "text": "Is the container at position 1 a jar?", "facets": ["multi-hop"]}


def test_pinned_files_are_those_at_hand(data: Path, test_data: Path) -> None:
    spec = benchmarks.load("t2i_corebench").data
    pins = {
        pin["path"]: pin for pin in json.loads((test_data / "bench_data" / "PINS.json").read_text()) if pin["repo"].startswith("KlingTeam/")
    }
    assert spec is not None and len(spec.files) == len(pins) == 12
    for file in spec.files:
        pin = pins[file.path]
        assert (file.repo, file.commit, file.sha256, file.bytes) == (pin["repo"], pin["commit"], pin["sha256"], pin["bytes"])
        assert file.hash_of(data / file.name) == file.sha256


def change(tree: dict[str, Any], *path: str | int, value: Any) -> str:
    node: Any = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda tree: change(tree, "R-CR-002", "Prompt", value=" "), ": R-CR-002: Prompt: blanks given; it is text"),
        (
            lambda tree: change(tree, "R-CR-002", "Checklist", value=[]),
            ": R-CR-002: Checklist: an empty list given; it is a list of questions",
        ),
        (lambda tree: change(tree, "R-CR-002", "Checklist", 1, "question", value=3), ": R-CR-002: question 2: question: a number given"),
        (lambda tree: change(tree, "R-CR-002", "Checklist", 1, "tags", value="x"), ": R-CR-002: question 2: tags: 'x' given; it is a list"),
        (lambda tree: change(tree, "R-RR-001", value={}), ": R-RR-001: it is R-CR- and a number"),
        (lambda tree: json.dumps(tree, indent=1).replace(":", "", 1), ": line 2: no valid JSON ("),
        (lambda tree: '{"R-CR-001": {}, "R-CR-001": {}}', ": R-CR-001 is there twice"),
        (lambda tree: "[]", ": a list given; it is a mapping of ids to prompts"),
    ],
)
def test_broken_files_are_named(broken: Callable[[dict[str, Any]], str], line: str, data: Path, tmp_path: Path) -> None:
    for name in reader.DIMENSIONS:
        shutil.copy(data / f"{name}.json", tmp_path)
    path = tmp_path / "R-CR.json"
    path.write_text(broken(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(UserError) as error:
        reader.load({}, tmp_path)
    assert str(error.value).startswith(f"{path}{line}")
    path.unlink()
    with pytest.raises(UserError, match=r"R-CR.json: cannot be read \(No such file or directory\); fetch the benchmark's data again$"):
        reader.load({}, tmp_path)


def test_folders_out_and_in(data: Path, tmp_path: Path) -> None:
    items = [item for item in reader.load({}, data) if item.id in ("C-MI-003", "R-RR-090")]
    rows = []
    for item in items:
        for k in range(4):
            rows.append((item, k, tmp_path / f"{item.id}.{k}.{'webp' if k == 3 else 'png'}"))
            Image.new("RGB", (4, 4), (item.number % 256, 60 * k, 0)).save(rows[-1][2])
    layout.export(rows, tmp_path / "model")
    assert (tmp_path / "model" / "C-MI" / "C-MI-003-1.png").read_bytes() == rows[1][2].read_bytes()
    with Image.open(tmp_path / "model" / "R-RR" / "R-RR-090-3.png") as image:
        assert image.format == "PNG"
    (tmp_path / "model" / "C-MI" / "C-MI-004-0.png").write_bytes(b"of a prompt that is not asked for")
    found = layout.pictures(items, tmp_path / "model")
    assert {key: path.name for key, path in found.items()} == {(i.group, i.id, k): f"{i.id}-{k}.png" for i, k, _ in rows}
    for path in sorted((tmp_path / "model").glob("*/*.png"), reverse=True):  # the same, counted from 1
        name, _, k = path.stem.rpartition("-")
        path.rename(path.with_name(f"{name}-{int(k) + 1}.png"))
    found = layout.pictures(items, tmp_path / "model")
    assert {key: path.name for key, path in found.items()} == {(i.group, i.id, k): f"{i.id}-{k + 1}.png" for i, k, _ in rows}
    shutil.copy(found["C-MI", "C-MI-003", 1], tmp_path / "model" / "C-MI" / "C-MI-003-02.png")
    with pytest.raises(UserError, match=r"C-MI-003-2.png: picture 2 of C-MI-003 a second time, C-MI-003-02.png is it too; remove one$"):
        layout.pictures(items, tmp_path / "model")
    with pytest.raises(UserError, match=r"give the folder of one model, which holds C-MI/C-MI-003-0.png and so on$"):
        layout.pictures(items, tmp_path)


def rows(items: Sequence[Item], say: Callable[[Item, int, int], Said], compat: str = "none", images: int = 2) -> list[Scored]:
    """`say`: item, picture, number of the question -> what the judge says."""
    options = {**benchmarks.load("t2i_corebench").scorer_options}
    found = []
    for item in items:
        for k in range(images):
            judge = ScriptedJudge({f'Question: "{q["text"]}"': say(item, k, q["id"]) for q in item.want["questions"]})
            (one,) = questions.load(options, Services(None, judge, compat=compat)).score([(item, Image.new("RGB", (4, 4)))])
            sample = Sample("bridge", item, k, 0)
            if isinstance(one, Unscored):
                found.append(Scored(sample, INFRA_ERROR, {}, str(one), None))
            else:
                found.append(Scored(sample, OK, one.values, one.reason, None, one.detail, one.facets))
    return found


def overall(scored: Sequence[Scored], metric: int = 0) -> dict[str, Any]:
    benchmark = benchmarks.load("t2i_corebench")
    cells = result.group(scored, benchmark.metrics[metric], benchmark, {})
    return {name: cell["value"] for name, cell in cells.items()}


def first_of_each(data: Path, number: int = 2) -> list[Item]:
    items = reader.load({}, data)
    return [item for item in items if int(item.id[-3:]) <= number]


def test_the_number_is_the_mean_of_dimensions(data: Path) -> None:
    """All right but: C-MI says no to every second picture, R-RR to the first question of its first prompt."""
    items = first_of_each(data)
    answers = {"C-MI": lambda item, k, q: k == 0, "R-RR": lambda item, k, q: not (item.id == "R-RR-001" and q == 1)}
    scored = rows(items, lambda item, k, q: "Yes" if answers.get(item.group, lambda *_: True)(item, k, q) else "No.")
    short = next(len(item.want["questions"]) for item in items if item.id == "R-RR-001")
    last = 100 * (1 - 1 / short / 2)
    found = overall(scored)
    assert (found["C-MI"], found["C-TR"], found["R-RR"]) == (50, 100, pytest.approx(last, abs=1e-5))
    assert found["overall"] == pytest.approx((50 + 10 * 100 + last) / 12, abs=1e-5)
    assert overall(scored, 1)["overall"] == pytest.approx((50 + 300) / 4, abs=1e-5)
    assert overall(scored, 2)["overall"] == pytest.approx((700 + last) / 8, abs=1e-5)


def test_officially_a_yes_with_a_capital_is_no_answer(data: Path) -> None:
    """A dimension is then the mean over those pictures that have any answer left."""
    items = first_of_each(data)

    def say(item: Item, k: int, q: int) -> str:
        if item.group != "C-MI":
            return "yes"
        return "Yes" if k else "Yes" if q == 1 else "no" if q % 2 else "yes"

    items[0].want["questions"][5:] = []  # five questions: of 2 to 5 two are yes
    items[1].want["questions"][3:] = []  # three: of 2 and 3 one is
    assert overall(rows(items, say))["C-MI"] == pytest.approx((60 + 100 + 200 / 3 + 100) / 4, abs=1e-5)
    found = overall(rows(items, say, "official"))
    assert found["C-MI"] == 50 and found["overall"] == pytest.approx((50 + 1100) / 12, abs=1e-5)


def test_a_judge_that_is_away_leaves_the_number_open(data: Path) -> None:
    """Also officially, where the scorer would drop the question; a picture that the model failed to draw counts as the worst."""
    items = first_of_each(data, 1)

    def say(item: Item, k: int, q: int) -> Said:
        return JudgeError("429") if (item.group, k, q) == ("R-AR", 1, 2) else "yes"

    for compat in ("none", "official"):
        scored = rows(items, say, compat)
        assert [s.reason for s in scored if s.state != OK] == ["the judge gave no answer: 429"]
        found = overall(scored)
        assert found["R-AR"] is None and found["overall"] is None and found["R-CR"] == 100
        assert overall(scored, 1)["overall"] == 100 and overall(scored, 2)["overall"] is None  # reasoning alone is open
    failed = [Scored(s.sample, MODEL_ERROR, {}, "NaN", None) if s.state != OK else s for s in scored]
    assert overall(failed)["R-AR"] == 50


def test_an_overall_number_is_not_of_groups_of_weight_zero() -> None:
    """Neither by their values nor by their being unscored; their pictures do not count among its own."""
    benchmark = benchmarks.load("t2i_corebench")
    composition = benchmark.metrics[1]

    def scored(group: str, *values: float | None) -> list[Scored]:
        samples = [Sample("bridge", Item(k, str(k), group, "x", {}), 0, 0) for k in range(len(values))]
        return [
            Scored(sample, INFRA_ERROR if value is None else OK, {} if value is None else {"score": value, "score.of": 1.0}, "", None)
            for sample, value in zip(samples, values, strict=True)
        ]

    rows = [s for number, group in enumerate(("C-MI", "C-MA", "C-MR", "C-TR")) for s in scored(group, 10 * number, 10 * number + 2)]
    others = [s for group in benchmark.groups if group.startswith("R-") for s in scored(group, 99, None)]
    found = result.group([*rows, *others], composition, benchmark, {})
    assert found["overall"] == result.group(rows, composition, benchmark, {})["overall"]
    assert (found["overall"]["value"], found["overall"]["n"], found["overall"]["prompts"]) == (16, 8, 8)
    assert found["R-LR"]["value"] is None and found["R-LR"]["unscored"] == 1
    gap = result.differences([*rows, *others], [*rows, *others], composition, benchmark)
    assert (gap["overall"]["value"], gap["overall"]["n"], gap["R-LR"]["value"]) == (0, 8, None)
    assert result.group(others, composition, benchmark, {}) == {}
