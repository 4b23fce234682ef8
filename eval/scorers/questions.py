"""Question graphs and checklists: a judge answers yes/no questions about a picture, and the score is the share of yes, times 100.

An item's `want` is {"questions": [{"id", "text", "facets", "parents"?, "first_row"?}, ...]}; options are the fields of Settings.

One request a question, and every question is asked, also where a no to its parent settles it: so the answers on record do not depend on how
they are counted, `compat: official` counts the very same ones, and the number of calls is known beforehand. An answer that cannot be read
leaves the picture unscored, unless a no to a parent settles that question.

`compat: official` asks once, reads the answer as the official scorer does, counts in the order of the file, and gives the facets the
answers without dependencies. It leaves out the first row of DPG-Bench's file. A prompt where another question depends on that row counts
for nothing (0 of 0), and so does a picture without any answer that can be read. One defect is not reproduced: the official facets are of
a prompt's last picture alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import section
from metabridge.eval.items import Item, Services, Unscored, Verdict
from metabridge.eval.judges import Judge
from metabridge.eval.judges.asking import Unparsed, ask
from metabridge.eval.scorers import Judged
from metabridge.eval.scorers.questions_answer import OFFICIAL, tolerant
from metabridge.eval.scorers.questions_graph import Graph, GraphError, in_file_order, parents_first
from metabridge.eval.scorers.questions_wording import OWN, Wording, read

PARSER = 1  # raise when answers are read or counted otherwise
COMPAT = True
NAMED = 3  # most questions that a reason names

Question = Mapping[str, Any]


@dataclass(frozen=True)
class Settings:
    wording: str = field(default="question", metadata={"choices": tuple(OWN)})
    template: str = ""  # a file in the wording's place
    official: str = field(default="exact", metadata={"choices": tuple(OFFICIAL)})  # how the official scorer reads an answer
    max_tokens: int = field(default=2048, metadata={"low": 1})  # of an answer: one word, but some judges think first


def calls(options: Mapping[str, Any], item: Item) -> int:
    return len(item.want["questions"])


def worst(options: Mapping[str, Any], item: Item) -> dict[str, float]:
    return {"score": 0.0, "score.of": 1.0}


def load(options: Mapping[str, Any], services: Services) -> Questions:
    settings: Settings = section(Settings, options, "scoring")
    if services.judge is None:
        raise UserError("scoring: a judge answers the questions, and none is given; name one with --judge")
    wording = read(settings.template) if settings.template else OWN[settings.wording]
    return Questions(services.judge, wording, settings, official=services.compat == "official")


@dataclass(frozen=True)
class _Answer:
    yes: bool | None  # None: it could not be read
    texts: tuple[str, ...]
    why: str = ""  # it could not be read

    @property
    def points(self) -> float:
        """What is not known settles nothing."""
        return 1.0 if self.yes is None else float(self.yes)


@dataclass(frozen=True)
class Questions(Judged):
    judge: Judge
    wording: Wording
    settings: Settings
    official: bool

    @property
    def identity(self) -> Mapping[str, Any]:
        variant = self.judge.identity["id"]
        if self.settings.template:
            variant += f" template={self.wording.sha256[:8]}"
        if self.official:
            variant += " compat=official"
        return {
            "variant": variant,
            "parser": PARSER,
            "read": self.settings.official if self.official else "tolerant",
            "judge": dict(self.judge.identity),
            "decoding": {"max_tokens": self.settings.max_tokens, "temperature": 0.0},
            "prompt_sha256": self.wording.sha256,
        }

    def score_one(self, item: Item, image: Image.Image) -> Verdict | Unscored:
        questions = {q["id"]: q for q in item.want["questions"] if not (self.official and q.get("first_row"))}
        graph = {key: tuple(question.get("parents", ())) for key, question in questions.items()}
        if self.official and not all(parent in graph for parents in graph.values() for parent in parents):
            return Verdict(
                {"score": 0.0, "score.of": 0.0}, "left out, as the official scorer does: a question depends on the file's first row"
            )
        try:
            answers = {key: self._ask(item, image, question["text"]) for key, question in questions.items()}
            return self._verdict(item, questions, answers, self._count(item, graph, answers))
        except Unscored as unscored:
            return unscored

    def _ask(self, item: Item, image: Image.Image, question: str) -> _Answer:
        request = self.wording.request(image, item.text, question, self.settings.max_tokens)
        if self.official:
            once = ask(self.judge, request, OFFICIAL[self.settings.official], attempts=1)
            return _Answer(once.value, once.texts)
        try:
            asked = ask(self.judge, request, tolerant)
        except Unparsed as error:
            return _Answer(None, error.texts, f"{question!r}: {error}")
        return _Answer(asked.value, asked.texts)

    def _count(self, item: Item, graph: Graph, answers: Mapping[int, _Answer]) -> dict[int, float]:
        """The points of each question. One without an answer has none, unless a no to a parent settles it."""
        try:
            points = (in_file_order if self.official else parents_first)(graph, {key: answer.points for key, answer in answers.items()})
        except GraphError as error:
            raise UserError(f"{item.id}: {error}; mend the file, or count in its own order with --compat official") from error
        unsettled = [key for key in points if answers[key].yes is None and points[key]]
        if unsettled and not self.official:
            raise Unscored(answers[unsettled[0]].why)
        return {key: value for key, value in points.items() if key not in unsettled}

    def _verdict(
        self, item: Item, questions: Mapping[int, Question], answers: Mapping[int, _Answer], points: Mapping[int, float]
    ) -> Verdict:
        values = {"score": 100 * sum(points.values()) / max(len(points), 1), "score.of": float(bool(points))}
        facets: dict[str, tuple[float, float]] = {}
        for key in points:
            for name in questions[key]["facets"]:
                got, of = facets.get(name, (0.0, 0.0))
                facets[name] = (got + (answers[key].points if self.official else points[key]), of + 1)
        record = [
            {"id": key, "yes": answer.yes, "points": points.get(key), "asked": len(answer.texts), "texts": list(answer.texts)}
            for key, answer in answers.items()
        ]
        return Verdict(values, _reason([questions[key]["text"] for key, value in points.items() if not value]), {"answers": record}, facets)


def _reason(wrong: Sequence[str]) -> str:
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return f"no: {' '.join(wrong[:NAMED])}{more}" if wrong else ""
