"""What Flatland's brain is taught: captions, positions, questions on one and two pictures, facts, and think-rewrites."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from metabridge.bridge.thinking import TEMPLATE as THINK_TEMPLATE
from metabridge.training.flatland.captions import NUMBERS, bare, captioned, counted, noun, plural
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS
from metabridge.training.flatland.prompts import KINDS, draw_reasoning
from metabridge.training.flatland.world import Scene, draw

DESCRIBE = "What is in the picture?"
_HARD = {"negation": 3, "comparison": 3}  # which of two things is meant takes longer to learn than a fact


@dataclass(frozen=True)
class Lesson:
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()


def describe(scene: Scene) -> str:
    """The full caption of a scene: every color and shape, in reading order; of a column, "above"."""
    kinds = [(o.color, o.shape) for o in scene.objects]
    if len(kinds) != 2:
        return counted(len(kinds), *kinds[0])
    a, b = scene.objects
    if abs(b.y - a.y) > abs(b.x - a.x):
        return f"{noun(*kinds[0])} above {noun(*kinds[1])}"
    return counted(2, *kinds[0]) if kinds[0] == kinds[1] else f"{noun(*kinds[0])} and {noun(*kinds[1])}"


def text_lesson(rng: random.Random) -> Lesson:
    """A lesson without a picture: a fact, a think-rewrite of a seen pairing, or a caption stripped of its dressing."""
    way = rng.random()
    if way < 0.2:
        return rng.choice(fact_lessons())
    if way < 0.8:
        prompt, rewrite = draw_reasoning(rng, rng.choices(KINDS, weights=[_HARD.get(kind, 1) for kind in KINDS])[0])
        return Lesson(THINK_TEMPLATE.format(prompt=prompt), rewrite)
    c = captioned(rng, allow_held_out=True)
    asked = THINK_TEMPLATE.format(prompt=c.text) if rng.random() < 0.5 else c.text
    return Lesson(asked, bare(c.text))


def fact_lessons() -> list[Lesson]:
    """Every fact as a question."""
    return [
        *(Lesson(f"What color is {fact}?", color) for fact, color in COLOR_FACTS.items()),
        *(Lesson(f"What shape is {fact}?", shape) for fact, shape in SHAPE_FACTS.items()),
        *(Lesson(f"What number is it: {fact}?", NUMBERS[number]) for fact, number in NUMBER_FACTS.items()),
    ]


def picture_lesson(rng: random.Random) -> Lesson:
    """A lesson on one picture."""
    c = captioned(rng, allow_held_out=True)
    picture = (draw(c.scene),)
    way = rng.random()
    if way < 0.6:
        return Lesson(DESCRIBE, describe(c.scene), picture)
    return Lesson(*_question(rng, c.scene), picture)


def two_picture_lesson(rng: random.Random) -> Lesson:
    """A lesson on two pictures: the caption of one of them, or whether color or shape agree."""
    scenes = [captioned(rng, rng.choice(("colors", "colors", "counting")), allow_held_out=True).scene for _ in range(2)]
    pictures = tuple(draw(s) for s in scenes)
    way = rng.random()
    if way < 0.6:
        which = rng.randrange(2)
        return Lesson(f"What is in the {('first', 'second')[which]} picture?", describe(scenes[which]), pictures)
    what = rng.choice(("color", "shape"))
    same = getattr(scenes[0].objects[0], what) == getattr(scenes[1].objects[0], what)
    return Lesson(f"Is the {what} the same in both?", "yes" if same else "no", pictures)


def _question(rng: random.Random, scene: Scene) -> tuple[str, str]:
    o = rng.choice(scene.objects)
    if len(scene.objects) == 2 and scene.objects[0].shape != scene.objects[1].shape:
        other = next(x for x in scene.objects if x is not o)
        dx, dy = o.x - other.x, o.y - other.y
        across = abs(dx) > abs(dy)
        where = ("left of" if dx < 0 else "right of") if across else ("above" if dy < 0 else "below")
        return rng.choice(
            (
                (f"Where is the {o.shape}?", f"{where} the {other.shape}"),
                (f"What color is the {o.shape}?", o.color),
                (f"How many {plural(o.shape)}?", "one"),
            )
        )
    return rng.choice(
        (
            (f"How many {plural(o.shape)}?", NUMBERS[len([x for x in scene.objects if x.shape == o.shape])]),
            ("What color?", o.color) if len({x.color for x in scene.objects}) == 1 else ("How many shapes?", NUMBERS[len(scene.objects)]),
            ("What shape?", o.shape),
        )
    )


LESSONS: dict[str, Callable[[random.Random], Lesson]] = {"text": text_lesson, "picture": picture_lesson, "two_pictures": two_picture_lesson}
