"""All sources of a recipe as one: which row comes when, what takes the place of a bad one, and the drops that train the guidance rows.

Row i of step s is a function of (seed, s, i): the order is the same for any number of processes or workers, and after any resume.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example, Hand
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective
from metabridge.training.feeds import Made
from metabridge.training.frames import Frames, Size, group, window_steps
from metabridge.training.order import Shares, mix
from metabridge.training.schema import BadRow, decoded
from metabridge.training.seeds import row_seed
from metabridge.training.sources import open_source, resolve

ATTEMPTS = 8  # rows that are tried in the place of a bad one


@dataclass(frozen=True)
class Skipped:
    """A row that could not be used."""

    source: int  # which of the recipe's
    where: str
    reason: str


@dataclass(frozen=True)
class Drawn:
    """One row of a batch."""

    example: Example
    caption: str | None  # what the hand's own text encoder would be told; None where that says too little (edits)
    pixels: NDArray[np.uint8]  # [H, W, 3], the target
    skipped: tuple[Skipped, ...] = ()  # bad rows in whose place it stands


class Mixture:
    """`row(step, i)` of a recipe, cut to a size that `hand` takes."""

    def __init__(self, recipe: Recipe, hand: Hand) -> None:
        settings = recipe.train
        self.seed, self.batch_size, self._workers = settings.seed, settings.batch_size, settings.workers
        self.frames = Frames.of(hand, settings)
        self.sources = [resolve(source) for source in recipe.data]
        self.window = window_steps(self.batch_size) if len(self.frames.sizes) > 1 else 1
        reach = 2 * self.window * self.batch_size
        opened = [open_source(source, recipe.objective, self.seed, k, reach) for k, source in enumerate(self.sources)]
        self.feeds = [feed for feed, _ in opened]
        self.objectives = [objective for _, objective in opened]
        self.shares = Shares([source.weight for source in self.sources], self.seed)
        for name in ("drop_image", "drop_both"):
            if getattr(recipe.objective, name) and all(source.task == "t2i" for source in self.sources):
                raise UserError(
                    f"objective.{name}: no source of this recipe has pictures (every task is t2i), so it has no effect; set it to 0"
                )

    def workers(self, processes: int) -> int:
        """Worker processes for one of `processes` training processes: none where rows are drawn, as that is quick."""
        if self._workers >= 0:
            return self._workers
        return 0 if all(isinstance(feed, Made) for feed in self.feeds) else max(1, min(4, (os.cpu_count() or 1) // processes - 1))

    def size(self, step: int) -> Size:
        """Height and width of a step's pictures."""
        return self._step(step)[0]

    def row(self, step: int, index: int) -> Drawn:
        size, rows = self._step(step)
        source, number = self.shares.locate(rows[index])
        return self._drawn(source, number, size, row_seed(self.seed, step, index), row_seed(self.seed, step, index, "drop"))

    def held_out(self, index: int) -> Drawn:
        """A row that training never sees; nothing is dropped, and its size is the first bucket's that fits it best."""
        source, number = self.shares.locate(index)
        example = self.feeds[source].held_out(number)
        try:
            return self._cut(source, example, self.frames.sizes[len(self.frames.sizes) // 2])
        except BadRow as bad:
            raise UserError(f"data {self.sources[source].source}: held-out row {number}: {bad}; mend or remove it") from bad

    def prompts(self, count: int) -> list[str]:
        """The first distinct prompts of the data that stand for themselves: a fixed set for sample sheets. Of think rows, the thoughts."""
        plain: dict[str, None] = {}
        thoughts: dict[str, None] = {}
        for index in range(50 * count):
            try:
                source = index % len(self.feeds)
                example = self.feeds[source].example(index // len(self.feeds), row_seed(self.seed, 0, index, "sheet"))
            except BadRow:
                continue
            if not example.images and not example.history:
                (plain if example.thought is None else thoughts)[example.thought or example.prompt] = None
            if len(plain) == count:
                break
        return list(plain | thoughts)[:count]

    def _step(self, step: int) -> tuple[Size, Sequence[int]]:
        """The size of a step, and the row of the run that each of its places holds."""
        if self.window == 1:
            return self.frames.sizes[0], range(step * self.batch_size, (step + 1) * self.batch_size)
        return self._window(step // self.window)[step % self.window]

    @lru_cache(maxsize=3)  # noqa: B019  a Mixture lives as long as its run
    def _window(self, number: int) -> list[tuple[Size, Sequence[int]]]:
        first = number * self.window * self.batch_size
        sizes = {}
        for row in range(first, first + self.window * self.batch_size):
            source, place = self.shares.locate(row)
            width, height = self.feeds[source].size(place) or self.frames.sizes[0][::-1]
            sizes[row] = (height, width)
        return group(sizes, self.frames, self.batch_size, mix(self.seed, number))

    def _drawn(self, source: int, number: int, size: Size, seed: int, drop_seed: int) -> Drawn:
        """The row, or the first in its place that can be used."""
        feed, objective = self.feeds[source], self.objectives[source]
        skipped: list[Skipped] = []
        for attempt in range(ATTEMPTS):
            try:
                drawn = self._cut(source, feed.example(number, seed, attempt), size)
            except BadRow as bad:
                skipped.append(Skipped(source, feed.where(number, attempt), str(bad)))
                continue
            example = thoughtful(drawn.example, objective.think, random.Random(mix(seed, 1))) if feed.rows else drawn.example
            example = drop(example, objective, random.Random(drop_seed).random())
            caption = (example.caption or example.thought or example.prompt) if self.sources[source].task == "t2i" else None
            return dataclasses.replace(drawn, example=example, caption=caption, skipped=tuple(skipped))
        raise UserError(
            f"data {self.sources[source].source}: {ATTEMPTS} rows one after another cannot be used; the last is {skipped[-1].where}: "
            f"{skipped[-1].reason}; metabridge data check says what is wrong with the others"
        )

    def _cut(self, source: int, example: Example, size: Size) -> Drawn:
        if example.target is None:
            raise BadRow("no target picture")
        pixels = self.frames.fit(example.target, size)
        images = tuple(decoded(image) for image in example.images)
        history = tuple(dataclasses.replace(turn, images=tuple(decoded(image) for image in turn.images)) for turn in example.history)
        example = dataclasses.replace(example, images=images, history=history)
        return Drawn(example, example.prompt if self.sources[source].task == "t2i" else None, pixels)


def thoughtful(example: Example, think: float, rng: random.Random) -> Example:
    """A share `think` of the rows is read as prompt + thought; a row without a thought of its own takes its caption, the prompt made vague.

    With prompt = thought the queries would have no reason to look at the thought.
    """
    if rng.random() >= think:
        return dataclasses.replace(example, thought=None)
    if example.thought is not None or example.images or example.history:
        return example
    kept = rng.random() * 0.7
    vague = " ".join(word for word in example.prompt.split() if rng.random() < kept)
    return dataclasses.replace(example, prompt=vague or "a picture", thought=example.prompt)


def drop(example: Example, objective: Objective, u: float) -> Example:
    """Turn a row into one of its guidance rows, u uniform in [0, 1): text gone, pictures gone, or both.

    A row without pictures knows one null row, "". A null row has no thought and no history.
    """
    text, image, both = objective.drop_text, objective.drop_image, objective.drop_both
    no_text = dataclasses.replace(example, prompt="", thought=None, caption=None, history=())
    if not example.images:
        return no_text if u < text + both else example
    if u < text:
        return no_text
    if u < text + image:
        return dataclasses.replace(example, images=())
    return dataclasses.replace(no_text, images=()) if u < text + image + both else example
