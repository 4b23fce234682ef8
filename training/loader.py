"""Batches, made beside the model's work: in a thread, or in worker processes. Nothing in them is state: batch k is a function of k."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import pictures
from metabridge.bridge.interfaces import Collate, Condition, Example, Inputs
from metabridge.bridge.model import Batch
from metabridge.training.data import Drawn, Mixture, Skipped
from metabridge.training.seeds import row_seed
from metabridge.training.slots import InSlot, Slots, keep_memory

AHEAD = 2  # batches that wait to be trained on, of a thread or of each worker
KEPT = 2  # that are still in use while the next is asked for
Room = Callable[[tuple[int, ...], type[np.uint8]], NDArray[np.uint8]]


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


@dataclass(frozen=True)
class Loaded:
    """A batch and what was met on the way to it."""

    batch: Batch
    skipped: tuple[Skipped, ...]
    cursors: Mapping[int, Mapping[str, Any]]  # of the streams among the sources, where a resume may begin

    def shared(self) -> Loaded:
        """In memory that another process can map. DataLoader's own thread would do it, and abort a worker that ends meanwhile."""
        return Loaded(self.batch.apply(lambda tensor: tensor.share_memory_()), self.skipped, self.cursors)

    def with_pictures(self, pictures: Tensor) -> Loaded:
        """[B, H, W, 3] in the place of no pixels."""
        batch = dataclasses.replace(self.batch, pixels=pictures.permute(0, 3, 1, 2))
        return Loaded(batch, self.skipped, self.cursors)

    def pin_memory(self) -> Loaded:
        """Asked for by DataLoader, so that the copy to the GPU runs beside it."""
        return Loaded(self.batch.apply(lambda tensor: tensor.pin_memory()), self.skipped, self.cursors)


def load(mixture: Mixture, collate: Collate, step: int, rows: range, room: Room = np.empty) -> Loaded:
    """Some rows of a step. `room` gives the memory for their pictures, by shape and dtype."""
    drawn: list[Drawn] = []
    pictures: NDArray[np.uint8] | None = None
    for k, index in enumerate(rows):
        row = mixture.row(step, index, cached=pictures is None)
        if row.pixels is not None:
            if pictures is None:
                pictures = room((len(rows), *row.pixels.shape), np.uint8)
                if drawn:  # one that is not in the cache: all by the way of pixels
                    again = [mixture.row(step, before) for before in rows[:k]]
                    pictures[:k] = [other.pixels for other in again if other.pixels is not None]
                    drawn = [dataclasses.replace(other, pixels=None) for other in again]
            pictures[k] = row.pixels  # at once, while the processor still has them; the next picture is decoded into their memory
            row = dataclasses.replace(row, pixels=None)
        drawn.append(row)
    inputs, places = grouped([row.example for row in drawn], collate, mixture.length_groups)
    batch = Batch(
        inputs=inputs,
        pixels=None if pictures is None else torch.from_numpy(pictures).permute(0, 3, 1, 2),
        noise_seeds=tuple(row_seed(mixture.seed, step, index, "noise") for index in rows),
        captions=tuple(row.caption for row in drawn),
        latents=None if pictures is not None else torch.stack([row.latents for row in drawn if row.latents is not None]),
        latent_seeds=tuple(row.latent_seed for row in drawn if row.latent_seed is not None) or None,
        **given(drawn),
        teacher=None if drawn[0].teacher is None else Condition.cat([row.teacher for row in drawn if row.teacher is not None]),
        places=places,
    )
    return Loaded(batch, tuple(skip for row in drawn for skip in row.skipped), mixture.cursors())


def grouped(examples: Sequence[Example], collate: Collate, groups: int) -> tuple[tuple[Inputs, ...], Tensor | None]:
    """Rows of like length together, each group padded to its own longest, and where each row stands in them.

    Before the brain's own processor has seen them, pictures and then letters say how long they are.
    """
    if groups == 1:
        return (collate(examples),), None
    order = sorted(range(len(examples)), key=lambda k: (len(pictures(examples[k])), letters(examples[k])))
    parts = [part.tolist() for part in np.array_split(order, min(groups, len(order)))]
    return tuple(collate([examples[k] for k in part]) for part in parts), torch.tensor(order).argsort()


def letters(example: Example) -> int:
    return sum(len(text) for text in (example.prompt, example.thought or "", *(turn.text for turn in example.history)))


def given(drawn: Sequence[Drawn]) -> dict[str, Any]:
    """The source pictures of all rows, as a Batch holds them."""
    pictures = [picture for row in drawn for picture in row.sources]
    if not pictures:
        return {}
    return {
        "sources": torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2),
        "source_counts": tuple(len(row.sources) for row in drawn),
    }


@dataclass(frozen=True)
class Batches(Dataset[Loaded | UserError]):
    """Micro-batch k of one process, from step 0 on."""

    mixture: Mixture
    collate: Collate
    share: Share

    def __getitem__(self, number: int) -> Loaded | UserError:
        step, micro = divmod(number, self.share.grad_accum)
        try:
            return load(self.mixture, self.collate, step, self.share.rows(micro))
        except UserError as error:  # which a worker would wrap in its traceback
            return error


@dataclass(frozen=True)
class Shared(Dataset[Any]):
    """The same, as a worker makes them: pictures into a slot."""

    made: Batches
    slots: Slots

    def __getitem__(self, place: tuple[int, int | None]) -> Loaded | InSlot | UserError:
        number, slot = place
        shape: tuple[int, ...] | None = None

        def room(wanted: tuple[int, ...], dtype: type[np.uint8]) -> NDArray[np.uint8]:
            nonlocal shape
            shape = wanted
            assert slot is not None
            return self.slots.array(slot, wanted)

        made = self.made
        step, micro = divmod(number, made.share.grad_accum)
        try:
            loaded = load(made.mixture, made.collate, step, made.share.rows(micro), np.empty if slot is None else room)
        except UserError as error:  # which a worker would wrap in its traceback
            return error
        if slot is None:
            return loaded.shared()
        rest = dataclasses.replace(loaded, batch=dataclasses.replace(loaded.batch, pixels=None))  # the pictures lie in the slot
        return InSlot(rest.shared(), self.slots.number, slot, shape)


def batches(mixture: Mixture, collate: Collate, share: Share, first: int, steps: int, workers: int = 0) -> Generator[Loaded, None, None]:
    """Every micro-batch of one process from step `first` on; `workers` = processes that make them, 0 = a thread of this one."""
    numbers = range(first * share.grad_accum, steps * share.grad_accum)
    made = Batches(mixture, collate, share)
    for loaded in in_workers(made, numbers, workers) if workers else in_a_thread(made, numbers):
        if isinstance(loaded, UserError):
            raise loaded
        yield loaded


def in_a_thread(made: Batches, numbers: range) -> Iterator[Loaded | UserError]:
    keep_memory()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        ahead: deque[Future[Any]] = deque()
        try:
            for number in numbers:
                ahead.append(pool.submit(made.__getitem__, number))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_workers(made: Batches, numbers: range, workers: int) -> Iterator[Loaded | UserError]:
    """Spawned, not forked: a fork would inherit the threads of torch and CUDA in whatever state they are."""
    workers = min(workers, max(1, len(numbers)))
    largest = max(math.prod(size) for size in made.mixture.frames.sizes)
    slots = Slots(AHEAD * workers + KEPT, 3 * largest * len(made.share.rows(0)))
    loader = DataLoader(
        Shared(made, slots),
        batch_size=None,
        sampler=slots.given(numbers),
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="spawn",
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_alone,
    )
    for loaded in loader:
        yield loaded.whole() if isinstance(loaded, InSlot) else loaded


def _alone(worker: int) -> None:
    """Ctrl-C and SIGTERM are the training process's to answer; a worker ends with it. One thread: its tensors are small."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_memory()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
