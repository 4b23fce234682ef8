"""The bridge's own brain as the judge: one question and its pictures in, its greedy answer out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from metabridge.bridge.artifact import is_local
from metabridge.bridge.errors import UserError
from metabridge.eval.calls import Budget
from metabridge.eval.judges import JudgeError, Message, Request
from metabridge.eval.judges.answers import Answer, without_thought
from metabridge.eval.judges.pictures import fitted

log = logging.getLogger(__name__)


class Brain:
    """`answer(question, images, max_new_tokens)` takes one turn, the pictures before the text.

    What a request has more is written out in that text.
    """

    concurrency = 1

    def __init__(
        self, answer: Callable[[str, list[Image.Image], int], str], identity: Mapping[str, Any], *, budget: Budget | None = None
    ) -> None:
        """`identity` has an `id`, a hub's name or a folder, and the `fingerprint` of the weights."""
        repo = str(identity["id"])
        # the folder's place is this machine's affair, and weights say more than a revision
        name = Path(repo).expanduser().resolve().name if is_local(repo) else repo
        self.identity: Mapping[str, Any] = {"kind": "brain", "id": name, "revision": identity["fingerprint"][:16], "host": None}
        self._budget = budget or Budget()
        self._answer, self._lock, self._warned = answer, Lock(), False

    def ask(self, request: Request, attempt: int = 0) -> str:
        if request.temperature:
            raise UserError(f"judge brain: answers greedily, but temperature {request.temperature:g} is asked for; name another judge")
        images = [fitted(part, request.max_side) for m in request.messages for part in m.content if isinstance(part, Image.Image)]
        with self._lock:
            if request.extra and not self._warned:
                log.warning("judge brain: %s of the request has no effect on it", ", ".join(sorted(request.extra)))
                self._warned = True
            self._budget.take()
            text = without_thought(self._answer(_question(request.messages), images, request.max_tokens))
        if not text:
            raise JudgeError("empty answer")
        return Answer(text, self.identity["id"])


def _question(messages: tuple[Message, ...]) -> str:
    """The texts in their order; earlier answers are quoted."""
    said = [(m.role, "\n".join(part for part in m.content if isinstance(part, str))) for m in messages]
    return "\n\n".join(f"Your answer was:\n{text}" if role == "assistant" else text for role, text in said if text)
