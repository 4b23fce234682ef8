"""Memory for pictures that is used again: the pages that a new piece of it needs cost as much as the decoding of a JPEG."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from ctypes import c_uint8
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_numbers = itertools.count()
_here: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()  # those of this process, for the thread that pins


class Slots:
    """`count` buffers of `size` bytes. Goes to workers as they are spawned; which slots are free is known to the training process alone."""

    def __init__(self, count: int, size: int) -> None:
        self.number = next(_numbers)
        self.buffers = [RawArray(c_uint8, size) for _ in range(count)]
        self.free = deque(range(count))
        _here[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {"number": self.number, "buffers": self.buffers}

    def given(self, numbers: Iterable[int]) -> Iterator[tuple[int, int | None]]:
        """Each number, as it is asked for, with a slot that nobody looks at any more; without one where there is none."""
        for number in numbers:
            yield number, self.free.popleft() if self.free else None

    def array(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = np.frombuffer(self.buffers[slot], np.uint8, math.prod(shape))  # type: ignore[call-overload]
        return pixels.reshape(shape)

    def tensor(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """What a worker has written. The slot is free again when neither this tensor nor a view of it is left."""
        array = self.array(slot, shape)
        weakref.finalize(array, self.free.append, slot).atexit = False
        return torch.from_numpy(array)


def keep_memory() -> None:
    """Let glibc keep what is freed: by default it gives anything as large as a picture back to the kernel at once."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 256 << 20)


@dataclass(frozen=True)
class InSlot:
    """On its way from a worker: everything but the pictures, and where these are."""

    rest: Any  # has with_pictures(tensor) -> what it is whole, and pin_memory() then
    slots: int
    slot: int
    shape: tuple[int, ...] | None  # None = there are no pictures

    def whole(self) -> Any:
        slots = _here[self.slots]
        if self.shape is None:
            slots.free.append(self.slot)
            return self.rest
        return self.rest.with_pictures(slots.tensor(self.slot, self.shape))

    def pin_memory(self) -> Any:
        return self.whole().pin_memory()
