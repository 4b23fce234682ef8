"""Captions of scenes: a small grammar with the six tags of GenEval (arXiv 2310.11513).

Captions name objects in reading order: "a star and a circle" is a star with a circle to its right.
Half of all texts, chosen by a hash, are kept for evaluation: no training ever shows them (`split`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from metabridge.training.flatland.world import RELATIONS, Scene, arrange, pick

TAGS = ("single", "two_object", "counting", "colors", "position", "color_attr")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
PREFIXES = (
    "",
    "a picture of ",
    "a drawing of ",
    "an image of ",
    "draw ",
    "show me ",
    "make ",
    "paint ",
    "please draw ",
    "i want ",
    "sketch ",
    "create ",
)
SUFFIXES = ("", " please", " on white")

_PHRASE = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_SHARES = {"single": 0.12, "two_object": 0.16, "counting": 0.18, "colors": 0.2, "position": 0.16, "color_attr": 0.18}


@dataclass(frozen=True)
class Want:
    """What a picture must show: exactly these objects, in any places unless `relation` holds the first against the second."""

    objects: tuple[tuple[str | None, str | None], ...]  # (color, shape); None = any
    relation: str | None = None  # "left" | "above"


@dataclass(frozen=True)
class Captioned:
    tag: str
    text: str
    want: Want
    scene: Scene


def split(text: str) -> str:
    """ "train" or "eval", by a hash of the text."""
    return "eval" if hashlib.sha256(text.encode()).digest()[0] % 2 else "train"


def noun(color: str | None, shape: str) -> str:
    """ "a star", "an orange star"."""
    words = f"{color} {shape}" if color else shape
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def counted(number: int, color: str | None, shape: str) -> str:
    """ "a star", "three red stars"."""
    if number == 1:
        return noun(color, shape)
    return f"{NUMBERS[number]} {color + ' ' if color else ''}{plural(shape)}"


def two(rng: random.Random, allow_held_out: bool = False) -> list[tuple[str, str]]:
    """Two (color, shape) pairs of different shapes; their colors may be the same."""
    first = pick(rng, allow_held_out)
    while True:
        second = pick(rng, allow_held_out)
        if second[1] != first[1]:
            return [first, second]


def compose(rng: random.Random, tag: str, allow_held_out: bool = False) -> tuple[str, Want, Scene]:
    """The bare caption of one tag, what it asks for, and a scene that shows it."""
    free = {"allow_held_out": allow_held_out}
    if tag == "single":
        color, shape = pick(rng, **free)
        return noun(None, shape), Want(((None, shape),)), arrange(rng, [(color, shape)])
    if tag == "colors":
        color, shape = pick(rng, **free)
        return noun(color, shape), Want(((color, shape),)), arrange(rng, [(color, shape)])
    if tag == "counting":
        color, shape = pick(rng, **free)
        number = rng.randint(2, 4)
        return counted(number, None, shape), Want(((None, shape),) * number), arrange(rng, [(color, shape)] * number)
    if tag == "two_object":
        pairs = two(rng, **free)
        text = f"{noun(None, pairs[0][1])} and {noun(None, pairs[1][1])}"
        return text, Want(tuple((None, shape) for _, shape in pairs)), arrange(rng, pairs)
    if tag == "color_attr":
        pairs = two(rng, **free)
        while pairs[0][0] == pairs[1][0]:
            pairs = two(rng, **free)
        return f"{noun(*pairs[0])} and {noun(*pairs[1])}", Want(tuple(pairs)), arrange(rng, pairs)
    if tag == "position":
        pairs = two(rng, **free)
        return relate(pairs, rng.choice(RELATIONS), rng, colored=False)
    raise ValueError(f"no tag {tag!r} (there are {', '.join(TAGS)})")


def relate(pairs: list[tuple[str, str]], relation: str, rng: random.Random, colored: bool) -> tuple[str, Want, Scene]:
    """ "A right of B": the pairs are in reading order, so that A is the second of them."""
    scene = arrange(rng, pairs, column=relation in ("above", "below"))
    first, second = pairs if relation in ("left", "above") else pairs[::-1]
    text = f"{noun(first[0] if colored else None, first[1])} {_PHRASE[relation]} {noun(second[0] if colored else None, second[1])}"
    asked = tuple((color if colored else None, shape) for color, shape in pairs)
    return text, Want(asked, "above" if relation in ("above", "below") else "left"), scene


def dress(rng: random.Random, text: str, wanted: str) -> str:
    """Add a prefix and a suffix so that the whole text lies in the wanted split."""
    dressings = [(p, s) for p in PREFIXES for s in SUFFIXES]
    undressed = rng.random() < 0.3
    while True:
        prefix, suffix = ("", "") if undressed else rng.choice(dressings)
        dressed = f"{prefix}{text}{suffix}"
        if split(dressed) == wanted:
            return dressed
        undressed = False


def bare(text: str) -> str:
    """The caption without prefix and suffix: from its first article or number on."""
    words = text.removesuffix(" please").removesuffix(" on white").split()
    start = {"a", "an", *NUMBERS}
    if " of " in text and words[2:3] == ["of"] and words[1] in ("picture", "drawing", "image"):
        words = words[3:]
    while words[0] not in start:
        words = words[1:]
    return " ".join(words)


def captioned(rng: random.Random, tag: str | None = None, wanted: str = "train", allow_held_out: bool = False) -> Captioned:
    """A caption with its scene. In training, 40% of the position and counting captions name colors too."""
    tag = tag or rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]
    text, want, scene = compose(rng, tag, allow_held_out)
    if wanted == "train" and tag in _WITH_COLORS and rng.random() < 0.4:
        text, want, scene = _WITH_COLORS[tag](rng, allow_held_out)
    return Captioned(tag, dress(rng, text, wanted), want, scene)


def _colored_count(rng: random.Random, allow_held_out: bool) -> tuple[str, Want, Scene]:
    color, shape = pick(rng, allow_held_out=allow_held_out)
    number = rng.randint(2, 4)
    return counted(number, color, shape), Want(((color, shape),) * number), arrange(rng, [(color, shape)] * number)


def _colored_position(rng: random.Random, allow_held_out: bool) -> tuple[str, Want, Scene]:
    return relate(two(rng, allow_held_out=allow_held_out), rng.choice(RELATIONS), rng, colored=True)


_WITH_COLORS: dict[str, Callable[[random.Random, bool], tuple[str, Want, Scene]]] = {
    "counting": _colored_count,
    "position": _colored_position,
}
