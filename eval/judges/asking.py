"""Ask until the answer can be read: the same question again, then with what was wrong about the answer. Never a guess."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from metabridge.eval.items import Unscored
from metabridge.eval.judges import Judge, JudgeError, Message, Request
from metabridge.eval.judges.cache import Recorded

T = TypeVar("T")
REPAIR = "That answer could not be read: {why}. Answer the same question once more, exactly in the form that was asked for, nothing else."


class ParseError(ValueError):
    """An answer that is not in the form asked for; says in a few words what is wrong with it."""


class Unparsed(Unscored):
    """No answer could be read. Holds the raw ones."""

    def __init__(self, why: str, texts: tuple[str, ...]) -> None:
        shown = " ".join(texts[-1].split())
        super().__init__(
            f"no answer of {len(texts)} could be read: {why}; the last one: {shown[:200]!r}{'...' if len(shown) > 200 else ''}"
        )
        self.texts = texts


@dataclass(frozen=True)
class Asked(Generic[T]):
    value: T
    texts: tuple[str, ...]  # raw answers; the last one is what was read


def ask(judge: Judge, request: Request, parse: Callable[[str], T], attempts: int = 3) -> Asked[T]:
    """What `parse` makes of an answer, or Unscored. `parse` raises ParseError. The last of several attempts says what was wrong before."""
    questions: list[Request] = []
    texts: list[str] = []
    why = ""
    for attempt in range(attempts):
        questions.append(_repair(request, texts[-1], why) if 0 < attempt == attempts - 1 else request)
        try:
            texts.append(judge.ask(questions[-1], attempt))
        except JudgeError as error:
            raise Unscored(f"the judge gave no answer: {error}") from error
        try:
            return Asked(parse(texts[-1]), tuple(texts))
        except ParseError as error:
            why = str(error)
    if isinstance(judge, Recorded):
        judge.forget(questions)
    raise Unparsed(why, tuple(texts))


def _repair(request: Request, answer: str, why: str) -> Request:
    more = (Message("assistant", (answer,)), Message("user", (REPAIR.format(why=why),)))
    return dataclasses.replace(request, messages=request.messages + more)
