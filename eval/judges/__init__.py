"""A judge looks at pictures and answers in text. One file a kind; made from a word of the command line by `metabridge.eval.judges.load`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.eval.calls import Budget, Failed

TRANSCRIPT = "judge.jsonl"


@dataclass(frozen=True)
class Message:
    role: str  # system | user | assistant
    content: tuple[str | Image.Image, ...]  # texts and pictures in their order


@dataclass(frozen=True)
class Request:
    """One question, with how the answer is to be decoded."""

    messages: tuple[Message, ...]
    max_tokens: int = 512
    temperature: float = 0.0
    # more of the endpoint's body, as {"chat_template_kwargs": {"enable_thinking": False}}; None takes a field out of it
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_side: int | None = None  # pixels, of the longer side of a picture as the judge sees it; None: as it is


JudgeError = Failed  # of a judge that gave no answer, for a reason that is not the picture's; never a score
SPENT = "of --max-judge-calls are used up; run again with more"  # of a budget


class Judge(Protocol):
    @property
    def identity(self) -> Mapping[str, Any]:
        """`id`, `revision`, `host` (no path, no key), `kind`."""

    @property
    def concurrency(self) -> int:
        """How many questions may be asked at the same time."""

    def ask(self, request: Request, attempt: int = 0) -> str:
        """The answer, without a <think> block. `attempt` tells a repeated question from a cached one. Raises JudgeError. Thread-safe."""


def load(
    word: str,
    *,
    folder: Path,
    concurrency: int = 8,
    timeout: float = 120.0,
    max_calls: int | None = None,
    answer: Callable[[str, list[Image.Image], int], str] | None = None,
    identity: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Judge:
    """The judge that a word of the command line names; `words.FORMS` says which there are.

    `folder`: where its answers are kept. `timeout`: seconds to wait for an answer. `max_calls`: how many may be made. `answer` and
    `identity`: of the bridge's own brain. `device`: of a local model, by default the GPU where there is one.
    """
    from metabridge.eval.judges import words
    from metabridge.eval.judges.cache import Recorded

    for name, value, least in (("concurrency", concurrency, 1), ("timeout", timeout, 0.001), ("max-judge-calls", max_calls, 0)):
        if value is not None and not value >= least:
            raise UserError(f"judge: {name} {value} given; it is {least} at least")
    found, budget = words.parse(word), Budget(max_calls, SPENT)
    judge: Judge
    if found.kind == "replay":
        from metabridge.eval.judges.replay import Replay

        return Replay(Path(found.place), found.name)
    if found.kind == "endpoint":
        from metabridge.eval.judges.endpoint import Endpoint

        judge = Endpoint(found.place, found.name, concurrency=concurrency, timeout=timeout, budget=budget)
    elif found.kind == "local":
        from metabridge.eval.judges.local import Local

        judge = Local(found.place, found.name, budget=budget, device=device)
    else:
        from metabridge.eval.judges.brain import Brain

        if answer is None or identity is None:
            raise UserError("judge brain: is the brain of the bridge that is scored, and there is no bridge here; name another judge")
        judge = Brain(answer, identity, budget=budget)
    return Recorded(judge, folder / TRANSCRIPT)
