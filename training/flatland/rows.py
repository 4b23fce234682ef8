"""Training rows of a connector: a caption (plain, or made vague with the caption as the thought) and the picture it describes."""

from __future__ import annotations

import random

from metabridge.bridge.interfaces import Example
from metabridge.training.flatland.captions import bare, captioned, dress, plural, split
from metabridge.training.flatland.facts import COLOR_FACTS, NUMBER_FACTS, SHAPE_FACTS
from metabridge.training.flatland.places import describe
from metabridge.training.flatland.places import placed as placed_scene
from metabridge.training.flatland.prompts import draw_reasoning, reworded_caption
from metabridge.training.flatland.world import COLORS, HELD_OUT_PAIRS, SHAPES, arrange, draw, pick

_VAGUE = (
    "something",
    "a drawing",
    "one or more shapes",
    "the thing i mean",
    "what you think of",
    "guess what i like",
    "a picture with shapes",
)
_FACTS = sorted([*COLOR_FACTS, *SHAPE_FACTS, *NUMBER_FACTS], key=len, reverse=True)
_PLURALS = {plural(shape) for shape in SHAPES}


def row(seed: int, think: float, reworded: float = 0.0, placed: float = 0.0) -> Example:
    """The row of a seed. A share `think` of the rows is read as prompt + thought before the queries, the prompt being vague.

    With prompt = thought the queries would have no reason to look at the thought; a vague prompt gives them one.
    `reworded`: this share of the other rows says its caption in the forms that reasoning prompts have (`in_other_words`).
    `placed`: this share of all rows is of objects at named places (places.py).
    """
    rng = random.Random(seed)
    if placed and rng.random() < placed:
        return placed_row(rng, think)
    c = captioned(rng)
    if rng.random() >= think:
        if reworded and rng.random() < reworded:
            return in_other_words(rng)
        return Example(prompt=c.text, target=draw(c.scene))
    thought = c.text
    if rng.random() < 0.75:  # a brain's thought is a bare caption; only texts that are not kept for evaluation
        while split(bare(c.text)) != "train":
            c = captioned(rng)
        thought = bare(c.text)
    return Example(prompt=vague(rng, c.text), target=draw(c.scene), thought=thought)


def placed_row(rng: random.Random, think: float) -> Example:
    """Objects at named places: what edits leave behind, asked for in words alone."""
    scene = placed_scene(rng)
    caption = describe(scene)
    prompt, thinks = dress(rng, caption, "train"), rng.random() < think
    return Example(vague(rng, prompt) if thinks else prompt, target=draw(scene), thought=caption if thinks else None)


def vague(rng: random.Random, text: str) -> str:
    """The caption with its meaning thinned: replaced, blurred, misleading, or with words dropped."""
    words = text.split()
    way = rng.random()
    if way < 0.1:
        return rng.choice(_VAGUE)
    if way < 0.2:  # blur what can be named: "a red star" -> "a colored shape"
        return " ".join("colored" if w in COLORS else "shape" if w in SHAPES else "shapes" if w in _PLURALS else w for w in words)
    if way < 0.5:  # another picture's caption: only the thought can be right
        return captioned(rng).text
    if way < 0.85:  # a riddle of another picture
        return riddle(rng)
    kept = [w for w in words if rng.random() < 0.5]
    return " ".join(kept) or rng.choice(_VAGUE)


def in_other_words(rng: random.Random) -> Example:
    """A caption in the form of a prompt that needs a fact, with the answer in the fact's place: "a star colored like red".

    It shows how such prompts are built, and no fact.
    """
    text, caption, want = reworded_caption(rng)
    color, _ = pick(rng)
    while any((color, shape) in HELD_OUT_PAIRS for named, shape in want.objects if named is None):
        color, _ = pick(rng)
    scene = arrange(rng, [(named or color, shape) for named, shape in want.objects])  # type: ignore[misc]  # every shape is named
    return Example(prompt=text, target=draw(scene), caption=caption)


def riddle(rng: random.Random) -> str:
    """A prompt that needs reasoning, about no picture in particular; a fact's name is left out of it, so that none is learnt here.

    Half of them are negations: of all prompts these name the most that must not be drawn.
    """
    text, _ = draw_reasoning(rng, "negation" if rng.random() < 0.5 else None)
    for fact in _FACTS:
        text = text.replace(fact, "that")
    return text
