"""What a judge says: the text, without what it thought on the way, and which model said it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_END = re.compile(r".*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_START = re.compile(r"<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)


class Answer(str):
    """The text of an answer; beside it the model that gave it, by its own word, and the tokens it says it used."""

    model: str | None
    usage: Mapping[str, int]

    def __new__(cls, text: str, model: str | None = None, usage: Mapping[str, int] | None = None) -> Answer:
        answer = super().__new__(cls, text)
        answer.model, answer.usage = model, dict(usage or {})
        return answer


def without_thought(text: str) -> str:
    """The answer after the thinking; empty where the thinking never ended.

    A chat template may open the thought itself, so that the answer holds only its end.
    """
    return _START.sub("", _END.sub("", _THOUGHT.sub("", text))).strip()
