"""What can be asked of an example: its pictures, those that the hand is given, and the null rows that guidance steps away from."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from metabridge.bridge.interfaces import Example


def pictures(example: Example) -> tuple[Image.Image, ...]:
    """All that the brain looks at, in the order in which it reads them."""
    return (*(image for turn in example.history for image in turn.images), *example.images)


def sources(example: Example, most: int) -> tuple[Image.Image, ...]:
    """The pictures that the hand is given as references: the last `most`, as many as it takes."""
    return pictures(example)[-most:] if most else ()


def without_text(example: Example) -> Example:
    """The null row of the words: the pictures, and what went before, with nothing said about them now."""
    return replace(example, prompt="", thought=None, caption=None)


def without_pictures(example: Example) -> Example:
    return replace(example, images=(), history=tuple(replace(turn, images=()) for turn in example.history))


def blank(example: Example) -> Example:
    """The null row of everything: "" in the same template."""
    return replace(without_text(example), images=(), history=())
