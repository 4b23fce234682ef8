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
    """The null row of the words: no prompt, thought or history; the pictures of the latest turn that has any stay to be looked at."""
    latest = example.images or next((turn.images for turn in reversed(example.history) if turn.images), ())
    return replace(example, prompt="", thought=None, caption=None, history=(), images=latest)


def without_pictures(example: Example) -> Example:
    return replace(example, images=(), history=tuple(replace(turn, images=()) for turn in example.history))
