"""Responses of every shape: an answer, or one of three errors, and never anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabridge.eval.address import HIDDEN, Key
from metabridge.eval.calls import Again, Stop
from metabridge.eval.http_client import retry_after
from metabridge.eval.judges import JudgeError
from metabridge.eval.judges.answers import without_thought
from metabridge.eval.judges.wire import read, same_model

KEY = Key("METABRIDGE_JUDGE_KEY", "sk-0123456789")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.just(KEY.value),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "finish_reason", "refusal", "error", "code", "model", "type", "text", "usage"]
            )
            | st.just(KEY.value),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


def outcome(make: Callable[[], str]) -> str:
    try:
        return make()
    except (Again, Stop, JudgeError) as error:
        assert "\n" not in str(error)
        return str(error)


@given(JSON, st.integers(100, 599))
def test_any_json_is_an_answer_or_an_error_without_the_key(tree: Any, status: int) -> None:
    assert KEY.value not in outcome(lambda: read(status, {"retry-after": str(status)}, json.dumps(tree), "judge", KEY.hide))


@given(JSON, st.lists(JSON, max_size=2))
def test_any_choice_is_an_answer_or_an_error(message: Any, more: list[Any]) -> None:
    tree = {"choices": [{"message": message}, *more], "model": "judge"}
    assert KEY.value not in outcome(lambda: read(200, {}, json.dumps(tree), "judge", KEY.hide))


@given(st.text(), st.sampled_from([200, 401, 429, 500]))
def test_any_text_is_an_error(text: str, status: int) -> None:
    assert outcome(lambda: read(status, {}, text, "judge", KEY.hide))


def test_half_a_sign_is_a_question_mark() -> None:
    """A surrogate without its other half, which no file can hold."""
    answer = read(200, {}, '{"choices": [{"message": {"content": "Score: 2 \\ud83d"}}]}', "judge", KEY.hide)
    assert answer.encode() == b"Score: 2 ?"


def test_json_deeper_than_the_stack_is_an_error() -> None:
    with pytest.raises(Again, match="no chat completion"):
        read(200, {}, "[" * 200_000, "judge", KEY.hide)


def test_the_key_is_hidden_in_every_corner() -> None:
    assert KEY.hide({"a": [KEY.value, {KEY.value: f"x{KEY.value}y"}], "n": 3}) == {"a": [HIDDEN, {HIDDEN: f"x{HIDDEN}y"}], "n": 3}
    assert KEY.value not in repr(KEY)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Score: 2", "Score: 2"),
        ("  Score: 2\n", "Score: 2"),
        ("<think>a</think>Score: 2", "Score: 2"),
        ("<THINK>a\nb</THINK>\n\nScore: 2", "Score: 2"),
        ("<thinking>a</thinking>Score: 2", "Score: 2"),
        ("<think></think>Score: 2", "Score: 2"),
        ("a</think>Score: 2", "Score: 2"),
        ("<think>a<think>b</think>c</think>Score: 2", "Score: 2"),
        ("<think>a</think>Score: 2<think>b</think>", "Score: 2"),
        ("Score: 2<think>b", "Score: 2"),
        ("<think>Score: 1", ""),
        ("<think>Score: 1</think>", ""),
        ("I think <b>2</b>", "I think <b>2</b>"),
    ],
)
def test_thoughts_are_no_answers(text: str, answer: str) -> None:
    assert without_thought(text) == answer


@given(st.text(), st.lists(st.sampled_from(["<think>", "</think>", "<thinking>", "\n"])))
def test_no_tag_of_a_thought_is_left(text: str, parts: list[str]) -> None:
    assert "think>" not in without_thought("".join(parts))
    assert without_thought(f"{''.join(parts)}</think>{text.replace('<', '')}") == text.replace("<", "").strip()


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o", "gpt-4o-2024-05-13"),
        ("gpt-4", "gpt-4-0613"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai/gpt-4o", "gpt-4o-2024-05-13"),
        ("gemini-2.5-flash", "models/gemini-2.5-flash"),
        ("gemini-2.5-flash-preview", "gemini-2.5-flash-preview-05-20"),
        ("gemini-1.5-pro", "gemini-1.5-pro-002"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"),
        ("claude-3-5-sonnet", "claude-3-5-sonnet@20241022"),
        ("Qwen/Qwen3.5-9B", "qwen/qwen3.5-9b"),
    ],
)
def test_the_model_that_was_asked(asked: str, answered: str) -> None:
    assert same_model(asked, answered)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4"),
        ("gpt-4o", "gpt-4o-mini-2024-07-18"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-4o-2024-05-13", "gpt-4o"),
        ("gpt-4.1", "gpt-4x1"),
        ("Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-35B-A3B"),
        ("Qwen/Qwen3.5-9B", "acme/Qwen3.5-9B"),
        ("gpt-4o", "gpt-4o-2024-05-13-tuned"),
    ],
)
def test_another_model(asked: str, answered: str) -> None:
    assert not same_model(asked, answered)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 09:28:30 +0200", 30.0),
        ("Wed, 21 Oct 2026 07:28:30 -0000", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("", None),
        ("-3", None),
        ("nan", None),
        ("1e9", None),
        ("soon", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    now = datetime(2026, 10, 21, 7, 28, tzinfo=UTC)
    assert retry_after({"retry-after": value}, now) == seconds
    assert retry_after({}, now) is None


@given(st.text())
def test_any_retry_after_is_seconds_or_nothing(value: str) -> None:
    seconds = retry_after({"retry-after": value})
    assert seconds is None or seconds >= 0
