"""Pictures with known answers, asked of a judge before and beside the real ones: can it see, and does it still see as it did?

Each question has a picture of yes and one of no, so that who answers without looking is right on half of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

from metabridge.bridge.errors import UserError
from metabridge.eval.items import Unscored
from metabridge.eval.judges import Judge, Message, Request
from metabridge.eval.judges.asking import ParseError, ask
from metabridge.eval.judges.cache import Recorded
from metabridge.eval.threads import as_they_come

SIDE = 256
COLORS = {"red": (220, 20, 20), "green": (20, 150, 40), "blue": (20, 60, 220), "black": (0, 0, 0), "orange": (250, 140, 0)}
# question -> pictures of yes and of no: shapes as "color shape x y radius"
PAIRS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Is there a red circle in the picture?": (("red circle 128 128 60",), ("blue square 128 128 60",)),
    "Is the triangle green?": (("green triangle 128 128 70",), ("orange triangle 128 128 70",)),
    "Are there exactly three circles in the picture?": (
        ("blue circle 50 70 30", "blue circle 180 60 30", "blue circle 120 180 30"),
        ("blue circle 60 100 30", "blue circle 190 150 30"),
    ),
    "Is the blue square to the left of the red square?": (
        ("blue square 60 128 35", "red square 196 128 35"),
        ("red square 60 128 35", "blue square 196 128 35"),
    ),
    "Is the circle above the square?": (
        ("green circle 128 60 40", "green square 128 196 40"),
        ("green square 128 60 40", "green circle 128 196 40"),
    ),
    "Are all the shapes in the picture black?": (
        ("black circle 60 60 35", "black square 190 80 35", "black triangle 120 190 40"),
        ("black circle 60 60 35", "red square 190 80 35", "black triangle 120 190 40"),
    ),
    "Is there a triangle in the picture?": (
        ("orange circle 70 128 40", "blue triangle 190 128 45"),
        ("orange circle 70 128 40", "blue square 190 128 45"),
    ),
    "Is the largest circle green?": (
        ("green circle 90 128 75", "red circle 215 128 25"),
        ("red circle 90 128 75", "green circle 215 128 25"),
    ),
    "Are there more squares than circles in the picture?": (
        ("blue square 50 60 28", "blue square 200 70 28", "blue square 60 200 28", "blue circle 190 190 28"),
        ("blue circle 50 60 28", "blue circle 200 70 28", "blue circle 60 200 28", "blue square 190 190 28"),
    ),
    "Is there a shape in the left half of the picture?": (("orange square 50 128 35",), ("orange square 206 128 35",)),
}


@dataclass(frozen=True)
class Canary:
    question: str
    shapes: tuple[str, ...]
    answer: bool

    def picture(self) -> Image.Image:
        image = Image.new("RGB", (SIDE, SIDE), "white")
        for shape in self.shapes:
            _draw(ImageDraw.Draw(image), shape)
        return image

    def request(self) -> Request:
        text = f"{self.question} Answer with one word, yes or no."
        return Request((Message("user", (self.picture(), text)),), max_tokens=2048)  # some think first


CANARIES = tuple(
    Canary(question, shapes, answer) for question, pair in PAIRS.items() for shapes, answer in zip(pair, (True, False), strict=True)
)
FIRST = CANARIES[:2]  # one question, yes of one picture and no of the other: nobody answers both without looking


@dataclass(frozen=True)
class Drift:
    """How a judge did on all canaries."""

    right: int
    of: int
    wrong: tuple[str, ...]  # question, right answer
    unanswered: tuple[str, ...]


def check(judge: Judge) -> None:
    """Before the first score: two calls, or none where the answers are kept. UserError if the judge is away, blind or wrong."""
    if judge.identity["kind"] == "replay":  # looks at nothing
        return
    name = judge.identity["id"]
    said = []
    for canary in FIRST:
        try:
            said.append(ask(judge, canary.request(), yes_or_no).value)
        except Unscored as error:
            raise UserError(f"judge {name}: fails on a picture of a single shape, so nothing was scored: {error}") from error
    if said == [canary.answer for canary in FIRST]:
        return
    if isinstance(judge, Recorded):
        for canary in FIRST:
            judge.forget([canary.request()])  # the next run looks again
    if said[0] == said[1]:
        raise UserError(
            f"judge {name}: says {_word(said[0])} to {FIRST[0].question!r} of a red circle and of a blue square, so it does not see "
            "pictures, and nothing was scored; name a model that does"
        )
    raise UserError(
        f"judge {name}: is wrong about {FIRST[0].question!r} of a red circle and of a blue square, so nothing was scored; "
        "name a better model"
    )


def drift(judge: Judge) -> Drift:
    """All of them. A figure that falls from one run to the next says that the judge is no longer what it was."""
    said = dict(as_they_come(lambda canary: (canary, _answer(judge, canary)), CANARIES, judge.concurrency))
    pairs = [(canary, said[canary]) for canary in CANARIES]
    return Drift(
        right=sum(answer == canary.answer for canary, answer in pairs),
        of=len(CANARIES),
        wrong=tuple(_name(canary) for canary, answer in pairs if answer not in (canary.answer, None)),
        unanswered=tuple(_name(canary) for canary, answer in pairs if answer is None),
    )


def yes_or_no(text: str) -> bool:
    """The first word or the last one."""
    first = re.match(r"[\W_]*(yes|no)(?![^\W_])", text, re.IGNORECASE)
    last = re.search(r"(?<![^\W_])(yes|no)[\W_]*$", text, re.IGNORECASE)
    words = {found.group(1).lower() for found in (first, last) if found}
    if len(words) != 1:
        raise ParseError("it says both yes and no" if words else "it says neither yes nor no")
    return words == {"yes"}


def _answer(judge: Judge, canary: Canary) -> bool | None:
    try:
        return ask(judge, canary.request(), yes_or_no).value
    except Unscored:
        return None


def _name(canary: Canary) -> str:
    return f"{canary.question} {_word(canary.answer)}"


def _word(answer: bool) -> str:
    return "yes" if answer else "no"


def _draw(draw: ImageDraw.ImageDraw, shape: str) -> None:
    color, kind, *numbers = shape.split()
    x, y, r = (int(number) for number in numbers)
    if kind == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=COLORS[color])
    elif kind == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=COLORS[color])
    else:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=COLORS[color])
