"""All sources of a recipe as one: which row comes when, what takes the place of a bad one, and the drops that train the guidance rows.

Row i of step s is a function of (seed, s, i): the order is the same for any number of processes or workers, and after any resume.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import blank, pictures, sources, without_pictures, without_text
from metabridge.bridge.interfaces import Condition, Example, Hand
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective
from metabridge.training.cache import SourceCache, row_noise
from metabridge.training.feeds import Made, Streamed, Tabled
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
    pixels: NDArray[np.uint8] | None  # [H, W, 3], the target; None where its latents are there
    sources: tuple[NDArray[np.uint8], ...] = ()  # [H, W, 3] each, the pictures that the hand is given
    skipped: tuple[Skipped, ...] = ()  # bad rows in whose place it stands
    latent_seed: int | None = None  # where the latents are a sample
    latents: Tensor | None = None  # [C, h, w], from a cache
    teacher: Condition | None = None  # [1, L, D], native condition of the caption, from a cache


class Mixture:
    """`row(step, i)` of a recipe, cut to a size that `hand` takes."""

    def __init__(self, recipe: Recipe, hand: Hand) -> None:
        settings = recipe.train
        self.seed, self.batch_size, self._workers = settings.seed, settings.batch_size, settings.workers
        self.length_groups = settings.length_groups
        self.sampled, self.distill = recipe.objective.latents == "sample", recipe.objective.distill > 0
        self.frames, self.references = Frames.of(hand, settings), hand.references
        self.shapes = {size: hand.latent_shape(*size) for size in self.frames.sizes}
        self.sources = [resolve(source) for source in recipe.data]
        self.window = window_steps(self.batch_size) if len(self.frames.sizes) > 1 else 1
        reach = 2 * self.window * self.batch_size
        opened = [open_source(source, recipe.objective, self.seed, k, reach) for k, source in enumerate(self.sources)]
        self.feeds = [feed for feed, _ in opened]
        self.objectives = [objective for _, objective in opened]
        self.caches = open_caches(recipe, self, hand)
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

    def row(self, step: int, index: int, cached: bool = False) -> Drawn:
        """Row `index` of a step. `cached`: with latents and native condition in the place of pixels, where all of them are there."""
        size, rows = self._step(step)
        source, number = self.shares.locate(rows[index])
        return self._drawn(source, number, size, step, index, cached)

    def cursors(self) -> dict[int, dict[str, Any]]:
        """Where the streams among the sources stand; the others need no such thing."""
        return {k: feed.cursor() for k, feed in enumerate(self.feeds) if isinstance(feed, Streamed)}

    def begin(self, cursors: Mapping[int, Mapping[str, Any]]) -> None:
        """Let streams begin where `cursors()` said, and not read again what has gone by."""
        for k, cursor in cursors.items():
            feed = self.feeds[k]
            if isinstance(feed, Streamed):
                feed.begin(cursor)

    def held_out(self, index: int) -> Drawn:
        """A row that training never sees: nothing is dropped, cut to the middle one of the sizes. A bad one is passed over."""
        source, number = self.shares.locate(index)
        middle = len(self.frames.sizes) // 2
        for attempt in range(ATTEMPTS):
            try:
                example = self.feeds[source].held_out(number + attempt)
                pixels = self._cut(example, self.frames.sizes[middle])
                example = dataclasses.replace(opened(example), target=None)
                return Drawn(example, self._told(source, example), pixels, self._sources(example, self.frames.sizes[middle]))
            except BadRow as bad:
                reason = str(bad)
        what = f"data {self.sources[source].source}"
        raise UserError(f"{what}: {ATTEMPTS} held-out rows cannot be used; the last: {reason}; mend or remove them")

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

    def samples(self, count: int) -> list[Example]:
        """What sample sheets draw: `prompts`, and where rows have pictures, as many of those in the order of the sources."""
        texts = [Example(prompt) for prompt in self.prompts(count)]
        seen: list[Example] = []
        for index in range(8 * count):
            source = index % len(self.feeds)
            if self.sources[source].task == "t2i" or len(seen) == count:
                continue
            try:
                example = opened(self.feeds[source].example(index // len(self.feeds), row_seed(self.seed, 0, index, "sheet")))
            except BadRow:
                continue
            if pictures(example):
                seen.append(dataclasses.replace(example, target=None))
        fewest = min(len(texts), max(count // 2, count - len(seen)))
        return [*texts[:fewest], *seen[: count - fewest]]

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
            width, height = self.feeds[source].size(place) or (1, 1)  # not known: the squarest
            sizes[row] = (height, width)
        return group(sizes, self.frames, self.batch_size, mix(self.seed, number))

    def _drawn(self, source: int, number: int, size: Size, step: int, place: int, cached: bool) -> Drawn:
        """The row, or the first in its place that can be used."""
        feed, seed = self.feeds[source], row_seed(self.seed, step, place)
        skipped: list[Skipped] = []
        for attempt in range(ATTEMPTS):
            try:
                example = feed.example(number, seed, attempt)
                latents = self._known(source, number, attempt, size) if cached else None
                pixels = self._cut(example, size) if latents is None else None
                example = dataclasses.replace(opened(example), target=None)  # whose memory is free for the next picture
                break
            except BadRow as bad:
                skipped.append(Skipped(source, feed.where(number, attempt), str(bad)))
        else:
            raise UserError(
                f"data {self.sources[source].source}: {ATTEMPTS} rows one after another cannot be used; the last is {skipped[-1].where}: "
                f"{skipped[-1].reason}; metabridge data check says what is wrong with the others"
            )
        if not isinstance(feed, Made):  # which makes its own thoughts
            example = thoughtful(example, self.objectives[source].think, random.Random(mix(seed, 1)))
        example = drop(example, self.objectives[source], uniform(self.seed, step, place))
        caption = self._told(source, example)
        teacher = None
        if latents is not None and self.distill:
            assert isinstance(feed, Tabled)
            teacher = self.caches[source].condition(feed.index(number, attempt), caption or "")
            if teacher is None:
                return self._drawn(source, number, size, step, place, cached=False)
        latent_seed = None
        if self.sampled and isinstance(feed, Tabled):
            latent_seed = row_noise(feed.index(number, attempt))
        elif self.sampled:
            latent_seed = row_seed(self.seed, step, place, "latents")
        return Drawn(example, caption, pixels, self._sources(example, size), tuple(skipped), latent_seed, latents, teacher)

    def _told(self, source: int, example: Example) -> str | None:
        made = self.sources[source]
        if not made.options.get("taught", made.task == "t2i"):
            return None
        # a prompt on pictures says what should change, not what should be seen
        return example.caption or example.thought or (example.prompt if made.task == "t2i" else None)

    def _sources(self, example: Example, size: Size) -> tuple[NDArray[np.uint8], ...]:
        """As the target is cut, so that what stays stands where it stood."""
        return tuple(self.frames.cover(image, size) for image in sources(example, self.references))

    def _known(self, source: int, number: int, attempt: int, size: Size) -> Tensor | None:
        """Latents of a row that were worked out before."""
        feed = self.feeds[source]
        if source not in self.caches or not isinstance(feed, Tabled):
            return None
        return self.caches[source].latents(feed.index(number, attempt), self.shapes[size])

    def _cut(self, example: Example, size: Size) -> NDArray[np.uint8]:
        if example.target is None:
            raise BadRow("no target picture")
        return self.frames.fit(example.target, size)


def opened(example: Example) -> Example:
    """With the pictures that the brain looks at decoded, so that a bad one is met here."""
    if not example.images and not example.history:
        return example
    images = tuple(decoded(image) for image in example.images)
    history = tuple(dataclasses.replace(turn, images=tuple(decoded(image) for image in turn.images)) for turn in example.history)
    return dataclasses.replace(example, images=images, history=history)


def open_caches(recipe: Recipe, mixture: Mixture, hand: Hand) -> dict[int, SourceCache]:
    """The caches of the sources that can have one; none unless the recipe asks."""
    if recipe.train.cache == "off":
        return {}
    tables = [(k, feed) for k, feed in enumerate(mixture.feeds) if isinstance(feed, Tabled)]
    if not tables:
        raise UserError(
            "train.cache: no source of this recipe keeps its rows (they are made, or streamed), so it has no effect; leave it out"
        )
    root = Path(recipe.train.cache).expanduser()
    caches = {k: SourceCache(root, mixture.sources[k], feed, hand, mixture.frames, recipe.objective.latents) for k, feed in tables}
    for cache in caches.values():
        for shards in (cache.latents_of, *([cache.native_of] if mixture.distill else [])):
            if not shards.folder.is_dir():
                raise UserError(
                    f"train.cache: {shards.folder}: not there, so nothing is kept for these rows, this size and this hand; "
                    f"run metabridge data cache {recipe.name} first, or leave train.cache out"
                )
    return caches


def uniform(seed: int, step: int, place: int) -> float:
    """What decides on a row's drops: the second number of its generator, as ever, so that a recipe's null rows stay where they were."""
    rng = random.Random(row_seed(seed, step, place, "drop"))
    rng.random()
    return rng.random()


def thoughtful(example: Example, think: float, rng: random.Random) -> Example:
    """A share `think` of the rows is read as prompt + thought; a row without a thought of its own takes its caption, the prompt made vague.

    With prompt = thought the queries would have no reason to look at the thought.
    """
    if rng.random() >= think:
        return example if example.thought is None else dataclasses.replace(example, thought=None)
    if example.thought is not None or example.images or example.history:
        return example
    kept = rng.random() * 0.7
    vague = " ".join(word for word in example.prompt.split() if rng.random() < kept)
    return dataclasses.replace(example, prompt=vague or "a picture", thought=example.prompt)


def drop(example: Example, objective: Objective, u: float) -> Example:
    """Turn a row into one of its guidance rows, u uniform in [0, 1): text gone, pictures gone, or both.

    A row without pictures knows one null row, "". With pictures, the null row of the text keeps them and the history, and has no thought.
    """
    text, image, both = objective.drop_text, objective.drop_image, objective.drop_both
    if not pictures(example):
        return blank(example) if u < text + both else example
    if u < text:
        return without_text(example)
    if u < text + image:
        return without_pictures(example)
    return blank(example) if u < text + image + both else example
