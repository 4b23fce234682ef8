"""What Flatland's brain is taught: captions, positions, questions on one and two pictures, facts, think-rewrites, edits, dialogues."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from PIL import Image

from metabridge.bridge.thinking import DECIDE_TEMPLATE
from metabridge.bridge.thinking import TEMPLATE as THINK_TEMPLATE
from metabridge.training.flatland.captions import NUMBERS, bare, captioned, counted, dress, noun, plural, two
from metabridge.training.flatland.dialogues import dialogue
from metabridge.training.flatland.edits import EDITS, new_edit
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS
from metabridge.training.flatland.given import compose, reconstruct
from metabridge.training.flatland.places import describe, placed
from metabridge.training.flatland.prompts import KINDS, draw_reasoning
from metabridge.training.flatland.world import COLORS, SHAPES, Scene, draw

DESCRIBE = "What is in the picture?"
AGAIN = "Say it again."
_SINGULAR = {shape: shape for shape in SHAPES} | {plural(shape): shape for shape in SHAPES}
# Which of two things is meant takes longer to learn than a fact; so does, of what is left in a picture, which color was whose.
_HARD = {"negation": 12, "comparison": 4, "remove": 3, "keep": 3}


@dataclass(frozen=True)
class Lesson:
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    before: tuple[Lesson, ...] = ()  # earlier turns


def asked_to_think(prompt: str, thought: str, *pictures: Scene, before: tuple[Lesson, ...] = ()) -> Lesson:
    """A thought: the full caption of the picture that a prompt, on pictures or not, asks for."""
    return Lesson(THINK_TEMPLATE.format(prompt=prompt), thought, tuple(draw(scene) for scene in pictures), before)


def text_lesson(rng: random.Random) -> Lesson:
    """A lesson without a picture: a fact, a detail of a text, what was said, a think-rewrite of a seen pairing, or a caption bare."""
    way = rng.random()
    if way < 0.15:
        return rng.choice(fact_lessons())
    if way < 0.22:
        return reading_lesson(rng)
    if way < 0.3:
        return decide_lesson(rng)
    if way < 0.5:
        return second_turn(rng)
    if way < 0.9:
        prompt, rewrite = draw_reasoning(rng, rng.choices(KINDS, weights=[_HARD.get(kind, 1) for kind in KINDS])[0])
        return asked_to_think(prompt, rewrite)
    if rng.random() < 0.4:
        caption = describe(placed(rng, allow_held_out=True))
        return asked_to_think(dress(rng, caption, "train"), caption)
    c = captioned(rng, allow_held_out=True)
    asked = THINK_TEMPLATE.format(prompt=c.text) if rng.random() < 0.5 else c.text
    return Lesson(asked, bare(c.text))


def decide_lesson(rng: random.Random) -> Lesson:
    """Whether a prompt needs a thought: a riddle does, a plain caption does not."""
    if rng.random() < 0.5:
        prompt, answer = draw_reasoning(rng)[0], "yes"
    else:
        captions = (captioned(rng, allow_held_out=True).text, dress(rng, describe(placed(rng, allow_held_out=True)), "train"))
        prompt, answer = rng.choice(captions), "no"
    return Lesson(DECIDE_TEMPLATE.format(prompt=prompt), answer)


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
    return Lesson(question, answer, before=(asked_to_think(prompt, said),))


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
    if rng.random() < 0.5:
        scene = placed(rng, allow_held_out=True)
        return Lesson(DESCRIBE, describe(scene), (draw(scene),))
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


def compose_lesson(rng: random.Random, wanted: str = "train") -> Lesson:
    """One picture out of two."""
    c = compose(rng, wanted=wanted, allow_held_out=True)
    return asked_to_think(c.text, describe(c.target), *c.sources)


def edit_lesson(rng: random.Random, wanted: str = "train") -> Lesson:
    """A picture and what should change in it; now and then, that nothing should."""
    if rng.random() < 0.1:
        r = reconstruct(rng, wanted, allow_held_out=True)
        if rng.random() < 0.5:
            return Lesson(DECIDE_TEMPLATE.format(prompt=r.text), "no", (draw(r.sources[0]),))
        return asked_to_think(r.text, describe(r.target), *r.sources)
    kind = rng.choices(EDITS, weights=[_HARD.get(kind, 1) for kind in EDITS])[0] if wanted == "train" else None
    e = new_edit(rng, kind, wanted, allow_held_out=True)
    if rng.random() < 0.1:
        return Lesson(DECIDE_TEMPLATE.format(prompt=e.text), "yes", (draw(e.source),))
    return asked_to_think(e.text, describe(e.target), e.source)


def dialogue_lesson(rng: random.Random, wanted: str = "train") -> Lesson:
    """The second or third turn of a conversation, with the pictures drawn so far."""
    said = dialogue(rng, rng.choice((2, 3, 3)), wanted, allow_held_out=True)
    lesson = asked_to_think(said[0].text, describe(said[0].scene))
    for before, turn in pairwise(said):
        earlier = (*lesson.before, replace(lesson, before=()))
        lesson = asked_to_think(turn.text, describe(turn.scene), before.scene, before=earlier)
    return lesson


LESSONS: dict[str, Callable[[random.Random], Lesson]] = {
    "text": text_lesson,
    "picture": picture_lesson,
    "two_pictures": lambda rng: compose_lesson(rng) if rng.random() < 0.6 else two_picture_lesson(rng),
    "edit": edit_lesson,
    "dialogue": dialogue_lesson,
}
