"""Soft-TIFA: how likely a VLM's first word is the right answer to each question; a picture's geometric mean (GM) and mean (AM), times 100.

It needs the probabilities of the whole vocabulary, which no endpoint gives, so the model runs in this process, a step a question. An answer
has several forms (two, Two, 2, each with and without a blank before it); the first token of each counts, and counts once.
`compat: official` adds the probability of a token once more for each further form that begins with it, so that a score may pass 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.reading import refuse_unknown
from metabridge.eval.items import Item, Services, Verdict

if TYPE_CHECKING:
    import torch

PARSER = 1  # raise when probabilities are read or counted otherwise
MODEL = "Qwen/Qwen3-VL-8B-Instruct"
ASKED = "{question} Answer in one word."
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")
ANSWERS = ("Yes", *NUMBERS)
COMPAT = True


def calls(options: Mapping[str, Any], item: Item) -> int:
    return 0


def load(options: Mapping[str, Any], services: Services) -> SoftTifa:
    from metabridge.eval.scorers.soft_tifa_model import Model

    refuse_unknown(options, [], "scoring")
    return SoftTifa(Model(services.models.get("vqa", MODEL), device=services.device), services.compat == "official")


class FirstWord(Protocol):
    """A model that looks at a picture."""

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def probabilities(self, image: Image.Image, text: str) -> torch.Tensor:
        """[V] in float32: of the first token it would say."""

    def first_token(self, text: str) -> int: ...


def forms(answer: str) -> list[str]:
    """Every way to say it, in one word."""
    words = [answer.lower(), answer.capitalize(), *([str(NUMBERS.index(answer) + 1)] if answer in NUMBERS else [])]
    return [blank + word for blank in ("", " ") for word in words]


@dataclass(frozen=True)
class SoftTifa:
    model: FirstWord
    official: bool

    workers = 1
    batch = 1

    @property
    def identity(self) -> Mapping[str, Any]:
        variant = self.model.identity["id"] + (" compat=official" if self.official else "")
        return {"variant": variant, "parser": PARSER, "models": {"vqa": dict(self.model.identity)}, "asked": ASKED}

    def check(self) -> None:
        """A red circle: the model must find it likelier that there is one than that there is a blue square."""
        from metabridge.eval.judges.canary import FIRST

        yes, no = (self._likely(canary.picture(), canary.question, "Yes") for canary in FIRST)
        if not yes > no:
            raise UserError(
                f"vqa {self.model.identity['id']}: finds yes no likelier where it is right ({yes:.3f}) than where it is wrong ({no:.3f}), "
                "on pictures of a single shape, so nothing was scored; give a model that sees with --model vqa=REPO_OR_FOLDER"
            )

    def score(self, rows: Sequence[tuple[Item, Image.Image]]) -> list[Verdict]:
        return [self._verdict(item, image) for item, image in rows]

    def _verdict(self, item: Item, image: Image.Image) -> Verdict:
        questions = item.want["questions"]
        likely = [self._likely(image, question["text"], question["answer"]) for question in questions]
        facets: dict[str, tuple[float, float]] = {}
        for question, value in zip(questions, likely, strict=True):
            for name in question["facets"]:
                points, of = facets.get(name, (0.0, 0.0))
                facets[name] = (points + value, of + 1)
        values = {"gm": 100 * geometric_mean(likely), "am": 100 * sum(likely) / len(likely)}
        least = min(range(len(likely)), key=likely.__getitem__)
        reason = f"{questions[least]['text']} {questions[least]['answer']}: {likely[least]:.2f}" if likely[least] < 0.5 else ""
        return Verdict(values, reason, {"probabilities": [round(value, 6) for value in likely]}, facets)

    def _likely(self, image: Image.Image, question: str, answer: str) -> float:
        likely = self.model.probabilities(image, ASKED.format(question=question))
        tokens = [self.model.first_token(form) for form in forms(answer)]
        return float(likely[tokens if self.official else sorted(set(tokens))].sum())


def geometric_mean(values: Sequence[float]) -> float:
    """(x_1 x_2 ... x_n)^(1/n), by way of logarithms; 0 where a factor is."""
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0
