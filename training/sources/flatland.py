"""The embedded world: drawn on the fly, never the same row twice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.training.feeds import Make
from metabridge.training.flatland.picture_rows import PICTURE_ROWS
from metabridge.training.flatland.rows import row


def load(think: float, task: str, reworded: float = 0.0, placed: float = 0.0, misread: float = 0.0, frames: float = 0.0) -> Make:
    """`think`: share of rows with a thought. Of text to image alone, shares of the captions: `reworded` = in other words, `placed` = of
    objects at named places, as edits have them. Of edits and dialogues, `misread`: share of the thoughts that take the color or place
    of one object for another's, where there are several. Of dialogues, `frames`: share that shows one and the same object in every picture.
    """
    shares = {}
    for name, value, tasks in (
        ("reworded", reworded, ("t2i",)),
        ("placed", placed, ("t2i",)),
        ("misread", misread, ("edit", "dialogue")),
        ("frames", frames, ("dialogue",)),
    ):
        if not 0 <= value <= 1:
            raise UserError(f"data flatland.{name}: {value} given; it is a share of the rows, 0 to 1")
        if task in tasks:
            shares[name] = value
        elif value:
            raise UserError(
                f"data flatland.{name}: {value} given, but it has an effect with task: {' or '.join(tasks)} alone; leave it out"
            )
    make: Callable[..., Example] = row if task == "t2i" else PICTURE_ROWS[task]
    return partial(make, think=think, **shares)
