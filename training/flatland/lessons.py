"""What Flatland's brain is taught: captions, positions, questions on one and two pictures, facts, and think-rewrites."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from metabridge.bridge.thinking import TEMPLATE as THINK_TEMPLATE
from metabridge.training.flatland.captions import NUMBERS, bare, captioned, counted, noun, plural, two
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS
from metabridge.training.flatland.prompts import KINDS, draw_reasoning
from metabridge.training.flatland.world import COLORS, SHAPES, Scene, draw

DESCRIBE = "What is in the picture?"
AGAIN = "Say it again."
_SINGULAR = {shape: shape for shape in SHAPES} | {plural(shape): shape for shape in SHAPES}
_HARD = {"negation": 12, "comparison": 4}  # which of two things is meant takes longer to learn than a fact


@dataclass(frozen=True)
class Lesson:
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    before: tuple[tuple[str, str], ...] = ()  # earlier turns, (question, answer)


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
    """A lesson without a picture: a fact, a detail of a text, what was said, a think-rewrite of a seen pairing, or a caption bare."""
    way = rng.random()
    if way < 0.15:
        return rng.choice(fact_lessons())
    if way < 0.25:
        return reading_lesson(rng)
    if way < 0.5:
        return second_turn(rng)
    if way < 0.9:
        prompt, rewrite = draw_reasoning(rng, rng.choices(KINDS, weights=[_HARD.get(kind, 1) for kind in KINDS])[0])
        return Lesson(THINK_TEMPLATE.format(prompt=prompt), rewrite)
    c = captioned(rng, allow_held_out=True)
    asked = THINK_TEMPLATE.format(prompt=c.text) if rng.random() < 0.5 else c.text
    return Lesson(asked, bare(c.text))


def reading_lesson(rng: random.Random) -> Lesson:
    """Which color, or how many, of one of the two things that a text names: the first half of a negation or a comparison."""
    if rng.random() < 0.5:
        pairs = two(rng, allow_held_out=True)
        color, shape = rng.choice(pairs)
        return Lesson(f"{noun(*pairs[0])} and {noun(*pairs[1])}. What color is the {shape}?", color)
    (n1, s1), (n2, s2) = groups = list(zip(rng.sample(range(1, 5), 2), rng.sample(SHAPES, 2), strict=True))
    number, shape = rng.choice(groups)
    return Lesson(f"{counted(n1, None, s1)} or {counted(n2, None, s2)}. How many {plural(shape)}?", NUMBERS[number])


def second_turn(rng: random.Random) -> Lesson:
    """A question on what the brain itself has said, which may be far from what it was asked.

    Queries stand behind a thought. A brain that never read on after its own words has no way to look them up for the queries.
    """
    prompt, said = draw_reasoning(rng)
    if rng.random() < 0.5:
        prompt = captioned(rng).text
    if rng.random() < 0.75:
        said = bare(captioned(rng, allow_held_out=True).text)
    question, answer = (AGAIN, said) if rng.random() < 0.4 else rng.choice(details(said))
    return Lesson(question, answer, before=((THINK_TEMPLATE.format(prompt=prompt), said),))


def details(caption: str) -> list[tuple[str, str]]:
    """Questions on a bare caption, with their answers."""
    words = caption.split()
    colors, shapes = [w for w in words if w in COLORS], [_SINGULAR[w] for w in words if w in _SINGULAR]
    number = words[0] if words[0] in NUMBERS else "one"
    found = [("What shape?" if len(shapes) == 1 else "Which shapes?", " ".join(shapes))]
    found += [(f"How many {plural(shape)}?", number) for shape in shapes]
    if len(colors) == len(shapes) > 1:
        return found + [(f"What color is the {shape}?", color) for color, shape in zip(colors, shapes, strict=True)]
    return found + [("What color?", color) for color in colors]


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
