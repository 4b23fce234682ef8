"""A judge that answers from a script: what it says to a question, attempt by attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from metabridge.eval.judges import JudgeError, Request

Said = str | JudgeError | Sequence[str | JudgeError]  # a sequence: attempt by attempt


@dataclass
class ScriptedJudge:
    script: Mapping[str, Said]  # question -> what is said; the question is found in what the user says
    asked: list[tuple[str, int, Request]] = field(default_factory=list)
    concurrency: int = 4
    identity: Mapping[str, Any] = field(default_factory=lambda: {"kind": "scripted", "id": "scripted-1", "revision": "r", "host": None})

    def ask(self, request: Request, attempt: int = 0) -> str:
        user = next(message for message in request.messages if message.role == "user")
        assert sum(isinstance(part, Image.Image) for part in user.content) == 1
        text = "".join(part for part in user.content if isinstance(part, str))
        question = max((known for known in self.script if known in text), key=len)
        self.asked.append((question, attempt, request))
        said = self.script[question]
        answer = said if isinstance(said, str | JudgeError) else said[attempt]
        if isinstance(answer, JudgeError):
            raise answer
        return answer
