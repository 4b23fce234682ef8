"""Sources of rows, their mixture, the drops that train the guidance rows, and batches prepared beside the model's work.

Row i of step s is a function of (seed, s, i): the order is the same for any number of processes and after any resume.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from metabridge.bridge.errors import UserError, unknown
from metabridge.bridge.interfaces import Collate, Example
from metabridge.bridge.model import Batch
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.settings import Objective, Source
from metabridge.training.seeds import row_seed

Row = Callable[[int], Example]  # seed -> one row


def flatland(think: float, reworded: float = 0.0) -> Row:
    """The embedded world: drawn on the fly, never the same row twice. `reworded`: this share of captions in other words."""
    from metabridge.training.flatland.rows import row

    if not 0 <= reworded <= 1:
        raise UserError(f"data flatland.reworded: {reworded} given; it is a share of the rows, 0 to 1")
    return lambda seed: row(seed, think, reworded)


# A further source is one entry: a function of the share of think rows and of its own options in the recipe.
SOURCES: dict[str, Callable[..., Row]] = {"flatland": flatland}


def open_source(source: Source, objective: Objective) -> Row:
    if source.source not in SOURCES:
        raise UserError(unknown(source.source, SOURCES, "source"))
    opener = SOURCES[source.source]
    own = [name for name in inspect.signature(opener).parameters if name != "think"]
    for option in source.options:
        if option not in own:
            raise UserError(unknown(f"data {source.source}.{option}", [*own, "source", "task", "weight"]))
    return opener(objective.think, **source.options)


@dataclass(frozen=True)
class Drawn:
    """One row of a batch."""

    example: Example
    caption: str | None  # what the hand's own text encoder would be told; None where that says too little (edits)


class Mixture:
    """All sources of a recipe as one: `row(step, i)`."""

    def __init__(self, recipe: Recipe) -> None:
        self.seed, self.objective, self.sources = recipe.train.seed, recipe.objective, recipe.data
        self.rows = [open_source(source, recipe.objective) for source in recipe.data]
        self.shares = list(itertools.accumulate(source.weight for source in recipe.data))
        for name in ("drop_image", "drop_both"):
            if getattr(recipe.objective, name) and all(source.task == "t2i" for source in recipe.data):
                raise UserError(
                    f"objective.{name}: no source of this recipe has pictures (every task is t2i), so it has no effect; set it to 0"
                )

    def row(self, step: int, index: int) -> Drawn:
        rng = random.Random(row_seed(self.seed, step, index, "drop"))
        which = rng.choices(range(len(self.rows)), cum_weights=self.shares)[0]
        example = self.rows[which](row_seed(self.seed, step, index))
        if example.target is None:
            raise UserError(
                f"data {self.sources[which].source}: row {index} of step {step} has no target picture; a training row needs one"
            )
        dropped = drop(example, self.objective, rng.random())
        caption = (dropped.caption or dropped.thought or dropped.prompt) if self.sources[which].task == "t2i" else None
        return Drawn(dropped, caption)

    def prompts(self, count: int) -> list[str]:
        """The first distinct prompts of the data that stand for themselves: a fixed set for sample sheets. Of think rows, the thoughts."""
        plain: dict[str, None] = {}
        thoughts: dict[str, None] = {}
        for index in range(50 * count):
            example = self.rows[index % len(self.rows)](row_seed(self.seed, 0, index, "sheet"))
            if not example.images:
                (plain if example.thought is None else thoughts)[example.thought or example.prompt] = None
            if len(plain) == count:
                break
        return list(plain | thoughts)[:count]


def drop(example: Example, objective: Objective, u: float) -> Example:
    """Turn a row into one of its guidance rows, u uniform in [0, 1): text gone, pictures gone, or both.

    A row without pictures knows one null row, "". A null row has no thought.
    """
    text, image, both = objective.drop_text, objective.drop_image, objective.drop_both
    no_text = dataclasses.replace(example, prompt="", thought=None, caption=None)
    if not example.images:
        return no_text if u < text + both else example
    if u < text:
        return no_text
    if u < text + image:
        return dataclasses.replace(example, images=())
    return dataclasses.replace(no_text, images=()) if u < text + image + both else example


def to_pixels(images: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """Pictures -> [B, 3, H, W] in [-1, 1], cut at the centre to the shape asked for (height, width)."""
    height, width = size
    fitted = (
        image if image.size == (width, height) else ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC) for image in images
    )
    array = np.stack([np.asarray(image.convert("RGB")) for image in fitted])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Share:
    """Which rows of a global batch are one process's at one micro-step."""

    batch_size: int
    grad_accum: int
    process: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        parts = self.grad_accum * self.processes
        if self.batch_size % parts:
            raise UserError(
                f"train.batch_size: {self.batch_size} (global) does not divide by {parts} = {self.grad_accum} (train.grad_accum) "
                f"x {self.processes} (processes); make it a multiple of {parts}"
            )

    def rows(self, micro: int) -> range:
        size = self.batch_size // (self.grad_accum * self.processes)
        first = (micro * self.processes + self.process) * size
        return range(first, first + size)


def make_batch(mixture: Mixture, collate: Collate, size: tuple[int, int], step: int, rows: range) -> Batch:
    drawn = [mixture.row(step, index) for index in rows]
    targets = [row.example.target for row in drawn if row.example.target is not None]
    return Batch(
        inputs=collate([row.example for row in drawn]),
        pixels=to_pixels(targets, size),
        noise_seeds=tuple(row_seed(mixture.seed, step, index, "noise") for index in rows),
        captions=tuple(row.caption for row in drawn) if mixture.objective.distill else None,
    )


def batches(mixture: Mixture, collate: Collate, size: tuple[int, int], share: Share, first: int, steps: int) -> Iterator[Batch]:
    """Every micro-batch of one process from step `first` on; the next two are made in a thread while the model works."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for step, micro in itertools.product(range(first, steps), range(share.grad_accum)):
                ahead.append(pool.submit(make_batch, mixture, collate, size, step, share.rows(micro)))
                if len(ahead) > 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
