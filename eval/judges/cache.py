"""Answers are kept: `judge.jsonl` has a line an answer, and a question that was answered costs nothing when it comes again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval import store
from metabridge.eval.judges import Judge, Request
from metabridge.eval.judges.answers import Answer
from metabridge.eval.judges.pictures import digest


def key_of(request: Request, attempt: int, identity: Mapping[str, Any]) -> str:
    """sha256 over everything that decides an answer: what is shown and said, who is asked, how it is decoded, which attempt it is."""
    messages = [
        [message.role, [part if isinstance(part, str) else {"image": digest(part)} for part in message.content]]
        for message in request.messages
    ]
    decoding = [request.max_tokens, float(request.temperature), request.max_side, request.extra]
    host = identity.get("host")  # a second server may hold another model of that name
    tree = [messages, identity["id"], identity["revision"], decoding, attempt, *([host] if host else [])]
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Recorded:
    """A judge whose answers are kept in a file. Threads and processes may share it."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge, self.path = judge, path
        self._lock = Lock()
        self._asking: dict[str, Lock] = {}
        lines = [line for line in lines_of(path) if _by(line, judge.identity)]
        self._answers = answers_of(lines, forgetting=True)
        self._model = next((line["model"] for line in reversed(lines) if line.get("model")), None)

    @property
    def identity(self) -> Mapping[str, Any]:
        return self.judge.identity

    @property
    def concurrency(self) -> int:
        return self.judge.concurrency

    def answered_as(self) -> list[str]:
        """The models that gave the answers, by their own word: gpt-4o-2024-05-13 where gpt-4o was asked. Those of other processes, too."""
        return models_of(line for line in lines_of(self.path) if _by(line, self.identity))

    def ask(self, request: Request, attempt: int = 0) -> str:
        key = key_of(request, attempt, self.identity)
        with self._lock:
            asking = self._asking.setdefault(key, Lock())
        with asking:  # the same question of two threads is asked once
            if key not in self._answers:
                self._answers[key] = self._record(key, request, attempt)
        return self._answers[key]

    def forget(self, questions: Sequence[Request]) -> None:
        """Answers, one an attempt, that were of no use: this run and replays keep them, the next run asks again."""
        keys = [key_of(request, attempt, self.identity) for attempt, request in enumerate(questions)]
        store.append(self.path, [{**self._named(key), "forget": True} for key in keys])

    def close(self) -> None:
        """Ends the waiting of a judge that waits, as when a run is stopped."""
        close = getattr(self.judge, "close", None)
        if close is not None:
            close()

    def _record(self, key: str, request: Request, attempt: int) -> str:
        start = time.monotonic()
        text = self.judge.ask(request, attempt)
        seconds = round(time.monotonic() - start, 3)
        model, usage = (text.model, text.usage) if isinstance(text, Answer) else (None, {})
        self._check_model(model)
        line = {**self._named(key), "text": str(text), "model": model, "seconds": seconds, **({"usage": usage} if usage else {})}
        store.append(self.path, [line])
        return str(text)

    def _named(self, key: str) -> dict[str, Any]:
        host = self.identity.get("host")
        return {"key": key, "judge": self.identity["id"], "revision": self.identity["revision"], **({"host": host} if host else {})}

    def _check_model(self, model: str | None) -> None:
        with self._lock:
            self._model = self._model or model
        if model is not None and model != self._model:
            raise UserError(
                f"judge {self.identity['id']}: answered as {self._model} before and as {model} now, which would be mixed in one score; "
                "name one of them in --judge, or score into another folder"
            )


def lines_of(path: Path) -> list[dict[str, Any]]:
    lines = store.read(path)
    for number, line in enumerate(lines, start=1):
        texts = (line.get("key"), line.get("judge"), "" if line.get("forget") else line.get("text")) if isinstance(line, dict) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}: line {number} is no answer of a judge; remove the line, then run the same command again")
    return lines


def answers_of(lines: Iterable[Mapping[str, Any]], forgetting: bool = False) -> dict[str, str]:
    """Key -> text; of several answers the last."""
    answers: dict[str, str] = {}
    for line in lines:
        if not line.get("forget"):
            answers[line["key"]] = line["text"]
        elif forgetting:
            answers.pop(line["key"], None)
    return answers


def models_of(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({str(line["model"]) for line in lines if line.get("model")})


def _by(line: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    return (line["judge"], line.get("revision"), line.get("host")) == (identity["id"], identity["revision"], identity.get("host"))
