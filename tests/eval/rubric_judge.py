"""A judge that gives the next of its answers and keeps what it was asked; and a parser as a third party would write it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from metabridge.eval import benchmarks
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import Request
from metabridge.eval.judges.asking import ParseError
from metabridge.eval.scorers.rubric_parse import Parse, Reading, Scale


@dataclass
class Answers:
    answers: list[str | Exception]
    requests: list[Request] = field(default_factory=list)
    identity: Mapping[str, Any] = field(default_factory=lambda: {"id": "judge-1", "revision": "r", "host": None, "kind": "test"})
    concurrency: int = 3
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, request: Request, attempt: int = 0) -> str:
        with self.lock:
            self.requests.append(request)
            answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def texts(self) -> list[str]:
        """What the user said in each question."""
        return [part for r in self.requests for m in r.messages if m.role == "user" for part in m.content if isinstance(part, str)]

    def pictures(self) -> list[list[Image.Image]]:
        return [[part for m in r.messages for part in m.content if isinstance(part, Image.Image)] for r in self.requests]


def scorer(name: str, *answers: str | Exception, data: Path | None = None, compat: str = "none", **changes: Any) -> tuple[Any, Answers]:
    """The scorer of a shipped benchmark, and its judge."""
    benchmark, judge = benchmarks.load(name), Answers(list(answers))
    return benchmark.scorer_module().load({**benchmark.scorer_options, **changes}, Services(data, judge, compat=compat)), judge


def one(scorer: Any, item: Item, image: Image.Image | None = None) -> Verdict | Unscored:
    (verdict,) = scorer.score([(item, image or Image.new("RGB", (8, 8)))])
    assert isinstance(verdict, Verdict | Unscored)
    return verdict


def golden(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "golden" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def load(name: str, scales: Sequence[Scale]) -> Parse:
    """Words for scores: `bad` is the lowest, `good` the highest."""

    def parse(text: str) -> Reading:
        if text not in ("bad", "good"):
            raise ParseError("neither bad nor good")
        return Reading({scale.name: scale.low if text == "bad" else scale.high for scale in scales})

    return parse
