"""What is read out of an answer, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabridge.eval.judges.asking import ParseError
from metabridge.eval.scorers.questions_answer import exact, tolerant, word

YES = ["yes", "Yes", "YES.", "  yes\n", "**Yes**", '"yes"', "__Yes__", "```\nyes\n```", "Ｙｅｓ。", "Yes, there is.", "Yes it is"]
YES += ["Answer: yes", "**Answer:** Yes", "The answer is yes.", "There is a car, so the answer is yes", "There is a car.\nYes"]
YES += ['{"answer": "yes"}', '{"answer": "yes", "why": "seen"}', "Final answer: **YES**", "Yes. No other cars can be seen.", "Verdict: yes"]
NO = ["no", "No.", "NO", "**No**, it is blue", "No, there is none.", "No - it is blue", "No—it is blue", "No\nThe car is blue."]
NO += ["Answer: no", "The answer is: **No**.", "I see none, so the answer is no.", "The car is blue.\n\n- No", "Conclusion: no, none"]
NO += ['{\n "answer": "No"\n}']
NEITHER = [
    "",
    "   ",
    "N/A",
    "Nope",
    "maybe",
    "not yes",
    "It is",
    "no-one is there",
    "No cars can be seen",
    "No. 5 is there",
    "nothing",
    "是",
    "1",
]
BOTH = [
    "yes and no",
    "Yes or no?",
    "Yes/No",
    "Yes, but no",
    "yes\nno",
    "No, wait, yes",
    "Answer: yes. The answer is no.",
    "Yes. Answer: no",
]


def test_what_is_read() -> None:
    assert [text for text in YES if tolerant(text) is not True] == []
    assert [text for text in NO if tolerant(text) is not False] == []


@pytest.mark.parametrize(("texts", "why"), [(NEITHER, "it says neither yes nor no"), (BOTH, "it says both yes and no")])
def test_what_is_refused(texts: list[str], why: str) -> None:
    for text in texts:
        with pytest.raises(ParseError, match=f"^{why}$"):
            tolerant(text)


@given(st.text() | st.lists(st.sampled_from(["yes", "No", "answer", "is", ":", "\n", "**", " ", "_", ".", "or", "cat", "/"])).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = tolerant(text)
    except ParseError:
        return
    assert isinstance(read, bool)
    # nothing is read that is not said
    assert re.search("y.?e.?s" if read else "n.?o", text.casefold()) or not text.isascii()


MARKS = st.text(alphabet=" \t\n*_\"'`.!:()#>", max_size=6)


@given(st.sampled_from(["yes", "no"]), MARKS, MARKS, st.sampled_from([str.lower, str.upper, str.title]))
def test_marks_and_case_change_nothing(answer: str, before: str, after: str, case: object) -> None:
    assert tolerant(before + case(answer) + after) is (answer == "yes")  # type: ignore[operator]


@given(st.text(alphabet=st.characters(exclude_characters="yYnNｙＹｎＮ", max_codepoint=0x2FF)))
def test_without_the_words_there_is_no_answer(text: str) -> None:
    with pytest.raises(ParseError):
        tolerant(text)


def test_long_answers_are_read_in_no_time() -> None:
    for text in ("answer is " * 20_000, "_" * 50_000 + "x", "no " * 20_000 + "x", "\n" * 50_000 + "x"):
        with pytest.raises(ParseError):
            tolerant(text)


def test_official_readings() -> None:
    assert [exact(text) for text in ("yes", "Yes", "yes.", " yes", "no", "")] == [True, False, False, False, False, False]
    said = {"yes": True, "it is yes.": True, "no": False, "no, but yes": True, "Yes": None, "No": None, "eyes know": None, "": None}
    assert {text: word(text) for text in said} == said
