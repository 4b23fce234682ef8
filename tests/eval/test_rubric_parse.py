"""Answers to scores: the official functions' own outputs, the forms that mean the same, and everything else refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metabridge.eval.judges.asking import ParseError
from metabridge.eval.scorers import rubric_official as official
from metabridge.eval.scorers import rubric_parse as ours
from metabridge.eval.scorers.rubric_parse import Scale
from tests.eval.rubric_judge import golden

WISE = [Scale(name, 0, 2) for name in ("consistency", "realism", "aesthetic_quality")]
VERIFIED = [Scale("score", 0, 1)]
IMGEDIT = [Scale(name, 1, 5) for name in ("first", "second", "third")]
GEDIT = [Scale(name, 0, 10) for name in ("success", "overedit")]
RISE = [Scale("final_score", 1, 5)]


def scores(parse: ours.Parse, text: str) -> list[float] | None:
    """None where it is refused."""
    try:
        return list(parse(text).scores.values())
    except ParseError:
        return None


# The official functions' outputs.


@pytest.mark.parametrize(
    ("name", "key", "function"),
    [
        ("wise_legacy_parse", "scores", official.wise_legacy_scores),
        ("wise_verified_parse", "scores", official.wise_verified_scores),
        ("imgedit_parse", "average", official.imgedit_average),
        ("rise_parse", "numbers", official.rise_numbers),
        ("gedit_viescore_parse", "official", official.viescore_answer),
    ],
)
def test_official_functions_replay(name: str, key: str, function: Callable[[str], Any], test_data: Path) -> None:
    rows = golden(test_data, name)
    assert [function(row["text"]) for row in rows] == [row[key] for row in rows]
    assert len(rows) >= 6


def test_official_wise_answers_are_taken_or_refused_as_officially(test_data: Path) -> None:
    parse = official.PARSERS["wise_legacy"]("picture", WISE)
    for row in golden(test_data, "wise_legacy_parse"):
        assert (scores(parse, row["text"]) is not None) == row["accepted"]
        if row["accepted"]:
            c, r, a = parse(row["text"]).scores.values()
            assert (0.7 * c + 0.2 * r + 0.1 * a) / 2 == row["wiscore"]  # to the bit, also 1.35 of 1


@pytest.mark.parametrize(
    ("answer", "function", "result"),
    [
        ("Consistency: 1\nConsistency: 2\nRealism: 0", official.wise_legacy_scores, {"consistency": 2.0, "realism": 0.0}),
        ("Inconsistency: 12", official.wise_legacy_scores, {"consistency": 1.0}),
        ("so:\n0\n\n2\r\n1\n2", official.wise_legacy_scores, {"consistency": 0.0, "realism": 2.0, "aesthetic_quality": 1.0}),
        ("Score: 2 or Score: 1", official.wise_verified_scores, {"score": 1.0}),
        ("Score: 2\n1", official.wise_verified_scores, {"score": 1.0}),
        ("A: 30\nB:: 4\nC: 5: 1", official.imgedit_average, 17.0),
        ("Brief reasoning: 3", official.imgedit_average, 3.0),
        ("Final Score: 4,\n5 and 3", official.rise_numbers, [4, 5]),
        ("Final Score: X\nFinal Score: 3", official.rise_numbers, [3]),
        ("final scores: none", official.rise_numbers, []),
        ("so [8, 9].", official.viescore_answer, {"score": [8, 9], "reasoning": "System: output is simply a list of scores"}),
        ('{"score": 7}', official.viescore_answer, {"score": [7]}),
        ("{score: 5, reasoning: fine}", official.viescore_answer, {"score": [5], "reasoning": "fine"}),
        ('a ||V^=^V||{"score": [1, 12]}||V^=^V|| {b}', official.viescore_answer, {"score": [1, 12]}),
        ("11", official.viescore_answer, False),
    ],
)
def test_official_defects(answer: str, function: Callable[[str], Any], result: Any) -> None:
    """Each seen in the official function."""
    assert function(answer) == result


def test_official_imgedit_averages_what_is_left() -> None:
    reading = official.PARSERS["imgedit"]("score", IMGEDIT)("Brief reasoning: fine\nA: 4\nB: 4/5\nC: 5")
    assert (reading.values, reading.reason) == ({"score": 4.5}, "fine")
    off = official.PARSERS["imgedit"]("score", IMGEDIT)("A: 30")
    assert (off.values, off.reason) == ({"score": 30.0}, "30, off the scale of 1 to 5")


@pytest.mark.parametrize(
    ("answer", "least"),
    [('{"score": [8, 9], "reasoning": "ok"}', 8), ("7", 7), ("[6, 5]", 5), ('{"score": [11, 12, 13]}', 11), ("{score: 5}", 5)],
)
def test_official_viescore_takes_the_least_of_any_list(answer: str, least: float) -> None:
    assert official.PARSERS["viescore"]("semantics", GEDIT)(answer).values == {"semantics": least}


@pytest.mark.parametrize(
    "answer", ["", "no idea", "rate_limit_exceeded", "{score: [4, 4]}", '{"score": ["a"]}', '{"score": [-1, 5]}', '{"score": []}']
)
def test_official_viescore_is_never_random(answer: str) -> None:
    """Where the official script would draw a number or break down."""
    with pytest.raises(ParseError):
        official.PARSERS["viescore"]("semantics", GEDIT)(answer)


# Ours.


@pytest.mark.parametrize(
    "answer",
    [
        "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
        "consistency: 2\n\nREALISM: 1\naesthetic_quality: 0\n",
        "**Consistency**: 2\n**Realism:** 1\n- **Aesthetic Quality: 0**",
        "```\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0\n```",
        "```text\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0```",
        "Consistency：２\nRealism：１\nAesthetic Quality：０",
        "Consistency: 2/2\nRealism: 1 / 2\nAesthetic Quality: 0 out of 2",
        "Consistency: 2.\nRealism: 1.0\nAesthetic Quality: 0.",
        "Consistency 2\nRealism = 1\nAesthetic Quality - 0",
        "Consistency is 2\nRealism score: 1\nFinal Aesthetic Quality: 0",
        "Consistency: 2, Realism: 1, Aesthetic Quality: 0",
        "1. Consistency: 2 (all is there)\n2. Realism: 1 - a hand is odd\n3. Aesthetic Quality: 0; dull",
        "The consistency is good, I give 2.\nConsistency: all there\n\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0\nConsistency: 2",
        "2\n1\n0",
        "2/2\n1.\n0",
    ],
)
def test_forms_that_mean_the_same(answer: str) -> None:
    assert scores(ours.lines("picture", WISE), answer) == [2, 1, 0]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "no score for consistency"),
        ("I think the image is fine.", "no score for consistency"),
        ("Consistency: 2\nRealism: 1", "no score for aesthetic_quality"),
        ("Consistency: 3\nRealism: 1\nAesthetic Quality: 0", "consistency: 3 is not on the scale of 0 to 2"),
        ("Consistency: 1.5\nRealism: 1\nAesthetic Quality: 0", "consistency: '1.5' is no whole number of 0 to 2"),
        ("Consistency: 1-2\nRealism: 1\nAesthetic Quality: 0", "consistency: '1-2' is no whole number of 0 to 2"),
        ("Consistency: -1\nRealism: 1\nAesthetic Quality: 0", "consistency: '-1' is no whole number of 0 to 2"),
        ("Consistency: 1/5\nRealism: 1\nAesthetic Quality: 0", "consistency: of 5, the scale is 0 to 2"),
        ("Consistency: 1 (or 2)\nRealism: 1\nAesthetic Quality: 0", "consistency: '1 (or 2)' is no whole number of 0 to 2"),
        ("Consistency: 1\nRealism: 1\nAesthetic Quality: 0\nConsistency: 2", "consistency: 1 and 2, it is one score"),
        ("Consistency: 1, Consistency: 2\nRealism: 1\nAesthetic Quality: 0", "consistency: 1 and 2, it is one score"),
        ("Realism: 1\nAesthetic Quality: 0\nI had Consistency: 1 in mind.\nConsistency: 2", "consistency: 1 and 2, it is one score"),
        ("So I give Consistency: 2.\nRealism: 1\nAesthetic Quality: 0", "no score for consistency"),
        ("2\n1", "no score for consistency"),
        ("2\n1\n0\n1", "no score for consistency"),
        ("2 1 0", "no score for consistency"),
        ("1. 2\n2. 1\n3. 0", "no score for consistency"),
        ("Consistency: ²\nRealism: 1\nAesthetic Quality: 0", "no score for consistency"),
    ],
)
def test_refused(answer: str, why: str) -> None:
    with pytest.raises(ParseError) as error:
        ours.lines("picture", WISE)(answer)
    assert str(error.value) == why


def test_our_reading_of_the_official_vectors(test_data: Path) -> None:
    """Where ours is another it is by intent: a score off its scale, a fraction, half an answer are none; a full-width colon is one."""
    parse = ours.lines("picture", VERIFIED)
    differ = {}
    for row in golden(test_data, "wise_verified_parse"):
        own, theirs = scores(parse, row["text"]), list(row["scores"].values()) or None
        if own != theirs:
            differ[row["text"]] = (own, theirs)
    assert differ == {"Score：1": ([1.0], None), "Score：0": ([0.0], None), "Score: 0.5": (None, [0.0]), "Score: 0/2": (None, [0.0])}

    parse = ours.lines("picture", WISE)
    for row in golden(test_data, "wise_legacy_parse"):
        own = scores(parse, row["text"])
        fits = row["accepted"] and max(row["scores"].values()) <= 2 and ".5" not in row["text"]
        assert own == (list(row["scores"].values()) if fits else None), row["text"]

    parse = ours.any_lines("score", IMGEDIT)
    for row in golden(test_data, "imgedit_parse"):
        own, text = scores(parse, row["text"]), row["text"]
        if own is not None and row["average"] is not None:
            assert round(sum(own) / 3, 2) == row["average"]
        else:  # three scores on their scale in a form that the official script does not know, or not three scores
            assert (own is not None) == ("：" in text or text.replace("\n", "").isdigit()), text


def test_named_by_the_judge() -> None:
    parse = ours.any_lines("score", IMGEDIT)
    reading = parse(
        "Brief reasoning: 3 dogs, one of them: 2 heads\n**Object Identity**: 5/5\nMask Precision: 4.\nVisual Quality: 1 (blurred)"
    )
    assert (dict(reading.scores), reading.reason) == ({"first": 5, "second": 4, "third": 1}, "3 dogs, one of them: 2 heads")
    assert scores(parse, "A: 5\nB: 4\na: 5\nC: 3") == [5, 4, 3]
    assert scores(parse, "5\n4\n3") == [5, 4, 3]
    for answer, why in {
        "A: 5\nB: 4": "2 scores, 3 are asked for",
        "A: 5\nB: 4\nC: 3\nAverage: 4": "4 scores, 3 are asked for",
        "A: 5\nB: 4\nC: 3\nA: 4": "a: 4 and 5, it is one score",
        "A: 5\nB: 4\nC: 3.5": "third: '3.5' is no whole number of 1 to 5",
        "A: 5\nB: 4\nC: 0": "third: 0 is not on the scale of 1 to 5",
        "fine": "no score, 3 are asked for",
    }.items():
        with pytest.raises(ParseError) as error:
            parse(answer)
        assert str(error.value) == why


@pytest.mark.parametrize(
    "answer",
    [
        '{"score": [8, 9], "reasoning": "ok"}',
        '```json\n{"score": [8, 9], "reasoning": "ok"}\n```',
        '```json {"score": [8, 9], "reasoning": "ok"}```',
        'I see {a cat}.\n{"score": [8, 9],\n "reasoning": "ok"} That is all.',
        '||V^=^V||{"score": [8.0, 9], "reasoning": "ok"}||V^=^V||',
        '{"score": [8, 9], "reasoning": "ok"}\n{"score": [8, 9], "reasoning": "ok"}',
    ],
)
def test_json(answer: str) -> None:
    reading = ours.json_scores("semantics", GEDIT)(answer)
    assert (dict(reading.scores), reading.reason) == ({"success": 8, "overedit": 9}, "ok")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", 'no {"score": [...]} in it'),
        ("7", 'no {"score": [...]} in it'),
        ("{score: [4, 4]}", 'no {"score": [...]} in it'),
        ('{"score": [4, 4]', 'no {"score": [...]} in it'),
        ("[8, 9] I think", "score: None given; it is a list of 2"),
        ('{"score": 7}', "score: 7 given; it is a list of 2"),
        ('{"score": [7]}', "score: [7] given; it is a list of 2"),
        ('{"score": [7, 8, 9]}', "score: [7, 8, 9] given; it is a list of 2"),
        ('{"score": [7, 11]}', "overedit: 11 is not on the scale of 0 to 10"),
        ('{"score": [-1, 8]}', "success: -1 is not on the scale of 0 to 10"),
        ('{"score": [NaN, 8]}', "success: nan is not on the scale of 0 to 10"),
        ('{"score": [1e999, 8]}', "success: inf is not on the scale of 0 to 10"),
        ('{"score": [true, 8]}', "success: 'True' is no number"),
        ('{"score": ["8", 8]}', "success: '8' is no number"),
        ('{"score": [8, 9]} no, {"score": [7, 9]}', "two answers that differ"),
        ("[" * 100_000, "JSON inside JSON without end"),
        ('{"a":' * 10_000, "JSON inside JSON without end"),
        ("{" * 200_001, "an answer of more than 200,000 characters"),
        ('{"score": [' + "9" * 5000 + ", 1]}", 'no {"score": [...]} in it'),
        ('{"score": [' + "9" * 400 + ", 1]}", "success: a number far from the scale of 0 to 10"),
    ],
)
def test_json_refused(answer: str, why: str) -> None:
    with pytest.raises(ParseError) as error:
        ours.json_scores("semantics", GEDIT)(answer)
    assert str(error.value) == why


def test_json_takes_fractions_and_the_list_alone() -> None:
    assert scores(ours.json_scores("semantics", GEDIT), '{"score": [7.5, 9]}') == [7.5, 9]
    assert scores(ours.json_scores("semantics", GEDIT), "[8, 9]") == [8, 9]


# Whatever a judge says.

WORDS = ["Consistency", "Realism", "Aesthetic Quality", "Score", "Final Score", "Final Scores", "A", "Brief reasoning", '"score"', "true"]
MARKS = [":", "：", " - ", "=", " is ", "/", "/2", "/10", ".", ",", ", ", "|", "**", "`", "```", "```json", "\n", "\r\n", " ", "||V^=^V||"]
NUMBERS = [*"0123456789²٣１[]{}()\"'\\-+", "1.5", "10", "9" * 7, "9" * 5000, "NaN", "null", "1e999", "rate_limit_exceeded"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(WORDS + MARKS + NUMBERS), max_size=20).map("".join))
FUZZED = [
    (ours.lines("picture", WISE), WISE),
    (ours.lines("picture", VERIFIED), VERIFIED),
    (ours.lines("picture", RISE), RISE),
    (ours.any_lines("score", IMGEDIT), IMGEDIT),
    (ours.json_scores("semantics", GEDIT), GEDIT),
]


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_never_raises_and_never_leaves_the_scale(text: str) -> None:
    for parse, scales in FUZZED:
        try:
            reading = parse(text)
        except ParseError:
            continue
        assert set(reading.scores) == {scale.name for scale in scales} and not reading.values
        assert all(scale.low <= reading.scores[scale.name] <= scale.high for scale in scales)


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_the_official_way_never_raises_and_gives_numbers(text: str) -> None:
    """On the scale or not: as the official scripts."""
    for name, scales in (("wise_legacy", WISE), ("wise_verified", VERIFIED), ("imgedit", IMGEDIT), ("rise", RISE), ("viescore", GEDIT)):
        try:
            reading = official.PARSERS[name]("value", scales)(text)
        except ParseError:
            continue
        given = [*reading.scores.values(), *reading.values.values()]
        assert given and all(math.isfinite(value) and value >= 0 for value in given)


@given(st.lists(st.integers(-1, 3), min_size=3, max_size=3), st.permutations(["Consistency", "Realism", "Aesthetic Quality"]))
def test_what_is_written_is_what_is_read(values: list[int], order: list[str]) -> None:
    written = dict(zip(("Consistency", "Realism", "Aesthetic Quality"), values, strict=True))
    found = scores(ours.lines("picture", WISE), "\n".join(f"{name}: {written[name]}" for name in order))
    assert found == (values if all(0 <= value <= 2 for value in values) else None)
