"""LongText-Bench against the official function's own outputs, and the way from pictures to words through a judge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval import benchmarks, data
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import JudgeError
from metabridge.eval.layouts import longtext as layout
from metabridge.eval.readers import longtext
from metabridge.eval.scorers import ocr
from tests.eval.rubric_judge import Answers

PICTURE = Image.new("RGB", (8, 8))


def item(*text: str, language: str = "en", ident: int = 0, group: str = "sign") -> Item:
    return Item(ident, str(ident), group, "a prompt", {"text": list(text), "language": language, "length": "short"})


READER = {"id": "reader", "revision": "1", "host": None, "kind": "test"}


def scorer(*answers: str | Exception, compat: str = "none", **options: Any) -> tuple[ocr.Reading, Answers]:
    judge = Answers(list(answers), identity=READER)
    return ocr.load(options, Services(None, judge, compat=compat)), judge


def test_golden(test_data: Path) -> None:
    """Outputs of the official functions; both ways of cleaning count these alike."""
    lines = (test_data / "golden" / "longtext_match.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 60
    for row in rows:
        for official in (True, False):
            said = ocr.verdict(item(*row["gt"]), ocr.without_made_up(row["ocr"], official), {})
            assert said.values == {"read": row["match"], "read.of": row["gt_words"]}, row["prompt_id"]


def test_official_cleaning_keeps_all_but_the_last_phrase() -> None:
    """Glued to a word, what is left hides the word; the right way finds it."""
    text = "OPENaddCriterion DAILY No text recognized."
    assert ocr.without_made_up(text, official=True) == "OPENaddCriterion DAILY "
    assert ocr.without_made_up(text) == "OPEN DAILY "
    want = item("OPEN DAILY")
    assert ocr.verdict(want, ocr.without_made_up(text, official=True), {}).values["read"] == 1
    assert ocr.verdict(want, ocr.without_made_up(text), {}).values["read"] == 2


def test_no_text_is_no_text() -> None:
    """As judges say it, without the stop that the official scorer looks for: there it reads as three words."""
    want = item("No smoking", "Text us")
    assert ocr.verdict(want, ocr.without_made_up("No text recognized"), {}).values["read"] == 0
    assert ocr.verdict(want, ocr.without_made_up("No text recognized", official=True), {}).values["read"] == 2


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("FRESH Brews, every-day!", "en", ["fresh", "brews", "everyday"]),
        ("May 15–17 — free", "en", ["may", "1517", "free"]),
        ("Café\n£4.50 & more", "en", ["café", "450", "more"]),
        ("naïve Ünder ñandú", "en", ["naïve", "ünder", "and"]),
        ("本地烘焙，始于1998 AB ab", "zh", list("本地烘焙始于1998ABab")),
        ("二〇二三", "zh", list("二二三")),
    ],
)
def test_words(text: str, language: str, words: list[str]) -> None:
    assert ocr.words(text, language) == words


def test_counts_as_often_as_it_is_wanted() -> None:
    want = item("one two two", "three")
    for read, found in [("two", 1), ("two two two two", 2), ("three two one two and more", 4), ("", 0)]:
        assert ocr.verdict(want, read, {}).values == {"read": found, "read.of": 4}


def test_reason_names_what_was_not_read() -> None:
    assert ocr.verdict(item("a b c d e f g h i j"), "j", {}).reason == "9 of 10 not read: a b c d e f g h ..."
    assert ocr.verdict(item("Open Open"), "open", {}).reason == "1 of 2 not read: open"
    assert ocr.verdict(item("Open"), "OPEN", {}).reason == ""


@given(st.text(), st.sampled_from(["en", "zh"]), st.booleans())
def test_any_answer_gives_a_share(text: str, language: str, official: bool) -> None:
    said = ocr.verdict(item("SALE 50%", "今天", language=language), ocr.without_made_up(text, official), {})
    assert 0 <= said.values["read"] <= said.values["read.of"] == (3 if language == "en" else 8)


@given(st.lists(st.sampled_from(["one", "Two", "three!", "addCriterion", "-"]), max_size=12))
def test_against_counting_one_by_one(read: list[str]) -> None:
    wanted = ["one", "two", "two", "three"]
    left, found = [word.strip("!").lower() for word in read], 0
    for word in wanted:
        if word in left:
            left.remove(word)
            found += 1
    assert ocr.verdict(item("One two", "TWO three."), " ".join(read), {}).values["read"] == found


def test_score() -> None:
    reading, judge = scorer("SALE today", "No text recognized", "", "", "SALE")
    said = reading.score([(item("Sale today"), PICTURE), (item("Sale"), PICTURE), (item("Sale"), PICTURE)])
    assert [verdict.values["read"] for verdict in said if isinstance(verdict, Verdict)] == [2, 0, 1]
    assert said[0].detail["read"] == "SALE today" and said[0].facets == {"short": (2.0, 2.0)}
    assert [verdict.detail["answers"][0]["asked"] for verdict in said] == [1, 1, 3]
    first = judge.requests[0]
    assert first.messages[0].content == (PICTURE, ocr.PROMPT) and (first.max_tokens, first.temperature) == (1024, 0.0)
    assert (reading.workers, reading.batch, ocr.calls({}, item("a"))) == (3, 1, 1)
    assert ocr.worst({}, item("Sale today now")) == {"read": 0.0, "read.of": 3.0}


def test_a_judge_that_fails_is_no_score() -> None:
    reading, _ = scorer(JudgeError("timeout"), "", " \n", "", "SALE")
    said = reading.score([(item("Sale"), PICTURE)] * 3)
    assert [type(one) for one in said[:2]] == [Unscored, type(said[1])] and isinstance(said[1], Unscored)
    assert "timeout" in str(said[0]) and "it is empty" in str(said[1])
    assert said[2].values == {"read": 1.0, "read.of": 1.0}


def test_compat_official_takes_an_empty_answer() -> None:
    reading, judge = scorer("", compat="official")
    assert reading.score([(item("Sale"), PICTURE)])[0].values == {"read": 0.0, "read.of": 1.0}
    assert len(judge.requests) == 1 and reading.identity["variant"] == "reader compat=official"


def test_words_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Read {everything}.\n")
    (own, judge), (plain, _) = scorer("x", template=str(path)), scorer("x")
    own.score([(item("Sale"), PICTURE)])
    assert judge.requests[0].messages[0].content[1] == "Read {everything}."
    assert plain.identity["variant"] == "reader"
    assert own.identity["variant"].startswith("reader template=") and own.identity["prompt_sha256"] != plain.identity["prompt_sha256"]
    path.write_text(" \n")
    for bad, says in [(path, "nothing in it; write there what the judge is to do"), (tmp_path / "none", "cannot be read (No such file")]:
        with pytest.raises(UserError) as error:
            scorer(template=str(bad))
        assert f"scoring.template: {bad}: {says}" in str(error.value)


def test_without_a_judge() -> None:
    with pytest.raises(UserError, match=r"^scoring: the text is read by a judge, and there is none; give --judge$"):
        ocr.load({}, Services(None))


# -- reader and data ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "total"), [("longtext_en", 4263), ("longtext_zh", 7944)])
def test_the_data(name: str, total: int, test_data: Path) -> None:
    """160 prompts, 20 of a category, as pinned; `total` as all texts cut by the rule give."""
    benchmark = benchmarks.load(name)
    folder = data.ready(benchmark.data, test_data / "bench_data")
    items = benchmark.items(folder)
    assert len(items) == benchmark.count == 160
    assert Counter(one.group for one in items) == dict.fromkeys(benchmark.groups, 20)
    assert [one.number for one in items] == list(range(160)) and len({one.id for one in items}) == 160
    assert sum(ocr.worst({}, one)["read.of"] for one in items) == total
    assert {one.want["length"] for one in items} == {"short", "long"}


GOOD = {"category": "sign", "length": "short", "prompt": "a sign", "text": ["Stop"], "text_length": 1, "prompt_id": 7}


def wrote(folder: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "text_prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_reader(tmp_path: Path) -> None:
    (found,) = longtext.load({}, wrote(tmp_path, GOOD))
    assert found == Item(0, "7", "sign", "a sign", {"text": ["Stop"], "language": "en", "length": "short"})


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "no valid JSON"),
        ([1], "a list given; it is a mapping of prompt_id, category, length, prompt and text"),
        ({**GOOD, "category": ""}, "category: nothing given; it is text"),
        ({**GOOD, "prompt": 3}, "prompt: a number given; it is text"),
        ({**GOOD, "prompt_id": "../7"}, "prompt_id: '../7' given; it is a whole number from 0"),
        ({**GOOD, "text": "Stop"}, "text: text given; it is a list of the texts to be read, with a word in it"),
        ({**GOOD, "text": ["--"]}, "text: a list given; it is a list of the texts to be read, with a word in it"),
        ({**GOOD, "prompt_id": 8}, "prompt_id 8 is that of line 1, too; give each its own"),
    ],
)
def test_broken_line(row: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        longtext.load({}, wrote(tmp_path, {**GOOD, "prompt_id": 8}, row))
    assert f"{tmp_path / 'text_prompts.jsonl'}: line 2: {says}" in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text_prompts_zh\.jsonl: cannot be read \(No such file or directory\); fetch"):
        longtext.load({"language": "zh"}, tmp_path)
    with pytest.raises(UserError, match=r"^prompts\.language: fr: no such language; it may be one of: en, zh$"):
        longtext.load({"language": "fr"}, tmp_path)
    with pytest.raises(UserError, match=r"^longtext: no data folder given; it holds text_prompts\.jsonl$"):
        longtext.load({}, None)


# -- official folders and results -----------------------------------------------------------------------------------------------------

ITEMS = [item("Stop here", ident=0), item("Go", ident=12, group="poster")]


def test_folder_there_and_back(tmp_path: Path) -> None:
    rows = []
    for one in ITEMS:
        for k in range(2):
            path = tmp_path / (f"{one.id}-{k}.jpg" if (one.id, k) == ("12", 1) else f"{one.id}-{k}.png")
            Image.new("RGB", (4, 4), (one.number, k, 0)).save(path)
            rows.append((one, k, path))
    there = tmp_path / "official"
    layout.export(rows, there)
    assert sorted(path.name for path in there.iterdir()) == ["0_0.png", "0_1.png", "12_0.png", "12_1.png"]
    assert layout.pictures(ITEMS, there) == {(one.group, one.id, k): there / f"{one.id}_{k}.png" for one, k, _ in rows}
    assert (there / "0_1.png").read_bytes() == rows[1][2].read_bytes()
    with Image.open(there / "12_1.png") as image:
        assert image.format == "PNG"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_other_ways_to_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From 1, one a prompt, with zeros in front, and with pictures of other prompts beside."""
    from_one = touch(tmp_path / "one", "0_1.png", "0_2.png", "12_1.png", "12_2.png")
    assert layout.pictures(ITEMS, from_one)["poster", "12", 1].name == "12_2.png"
    alone = touch(tmp_path / "alone", "0000.png", "0012.png", "0003.png")
    with caplog.at_level("INFO"):
        assert set(layout.pictures(ITEMS, alone)) == {("sign", "0", 0), ("poster", "12", 0)}
    assert f"{alone}: 1 pictures left out, of prompts that were not asked for" in caplog.text


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["0.png", "grid.png"], "{folder}: grid.png: no name of a picture; pictures are named 0_0.png"),
        (["0_1.png", "00_1.png"], "picture 0 of prompt 0 a second time, 00_1.png is it too; remove one"),
        (["5.png"], "{folder}: no picture of 2 prompts there; pictures are named"),
        ([], "{folder}: no picture of 2 prompts there; pictures are named"),
    ],
)
def test_bad_folder(names: list[str], says: str, tmp_path: Path) -> None:
    folder = touch(tmp_path / "official", *names)
    with pytest.raises(UserError) as error:
        layout.pictures(ITEMS, folder)
    assert says.format(folder=folder) in str(error.value)
    with pytest.raises(UserError, match="no such folder; pictures are named"):
        layout.pictures(ITEMS, tmp_path / "none")


def row(image: str, one: Item, read: str) -> str:
    return json.dumps({"image": f"out/{image}", "prompt": one.text, "ocr_gt": one.want["text"], "ocr_results": read})


@pytest.mark.parametrize("place", ["file", "folder", "parts"])
def test_official_results(place: str, tmp_path: Path) -> None:
    rows = [row("0_0.png", ITEMS[0], "STOP"), row("0_1.png", ITEMS[0], "stop here"), row("12_0.png", ITEMS[1], "")]
    if place == "parts":
        (tmp_path / "results_chunk0.jsonl").write_text(rows[0] + "\n")
        (tmp_path / "results_chunk1.jsonl").write_text("\n".join(rows[1:]) + "\n")
    else:
        (tmp_path / "results.jsonl").write_text("\n".join(rows))
    found = layout.results(tmp_path / "results.jsonl" if place == "file" else tmp_path, ITEMS)
    assert found == [
        (("sign", "0", 0), {"read": 1.0, "read.of": 2.0}, "1 of 2 not read: here"),
        (("sign", "0", 1), {"read": 2.0, "read.of": 2.0}, ""),
        (("poster", "12", 0), {"read": 0.0, "read.of": 1.0}, "1 of 1 not read: go"),
    ]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (lambda: ["{"], "line 1: no valid JSON"),
        (lambda: ['{"image": "0.png"}'], "line 1: no ocr_gt; give the results.jsonl of the official scorer"),
        (lambda: [row("0.png", ITEMS[1], "")], "line 1: other texts than those of prompt 0; give results of the same prompts and language"),
        (lambda: [row("0.png", ITEMS[0], "")] * 2, "line 2: out/0.png a second time; give the results of one run"),
    ],
)
def test_bad_results(rows: Callable[[], list[str]], says: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(rows()))
    with pytest.raises(UserError) as error:
        layout.results(path, ITEMS)
    assert f"{path}: {says}" in str(error.value)
    empty = touch(tmp_path / "empty")
    with pytest.raises(UserError, match=r"neither results\.jsonl nor results_chunk0\.jsonl there"):
        layout.results(empty, ITEMS)
