"""A transcript as a judge: what was answered is answered again, to the letter; nobody else is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabridge.bridge.errors import UserError
from metabridge.eval.judges import JudgeError, Request
from metabridge.eval.judges.cache import answers_of, key_of, lines_of, models_of


class Replay:
    """Goes by the name of the judge that was recorded, so that a score from its answers is the same score."""

    concurrency = 1

    def __init__(self, path: Path, model: str = "") -> None:
        """`model`: whose answers, where the file has those of several."""
        if not path.is_file():
            raise UserError(f"judge replay:{path}: no such file; give the judge.jsonl of a scored run")
        self.path = path
        every = lines_of(path)
        lines = [line for line in every if model == _named(line)] or [line for line in every if model in ("", line["judge"])]
        judges = sorted({_named(line) for line in lines})
        if not judges:
            raise UserError(f"judge replay:{path}: no answers{f' of {model}' if model else ''} in it; give the judge.jsonl of a scored run")
        if len(judges) > 1:
            raise UserError(f"judge replay:{path}: has answers of {', '.join(judges)}; name one, as replay:FILE#{judges[0]}")
        self.identity: Mapping[str, Any] = {
            "kind": "replay",
            "id": lines[0]["judge"],
            "revision": lines[0].get("revision"),
            "host": None,
        }
        self._answers = answers_of(lines)
        self._models = models_of(lines)
        self._asked = {**self.identity, "host": lines[0].get("host")}  # of whom; older transcripts do not say at which host

    def answered_as(self) -> list[str]:
        return self._models

    def ask(self, request: Request, attempt: int = 0) -> str:
        try:
            return self._answers[key_of(request, attempt, self._asked)]
        except KeyError:
            raise JudgeError(
                f"replay: {self.path.name} has no answer to this question (attempt {attempt}); "
                "it was recorded with other pictures, other prompts or another version"
            ) from None


def _named(line: Mapping[str, Any]) -> str:
    """With what tells it from others of that name: its revision, or the host of an endpoint."""
    return "@".join([line["judge"], *(str(line[key]) for key in ("revision", "host") if line.get(key))])
