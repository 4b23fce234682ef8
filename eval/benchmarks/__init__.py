"""One file a benchmark; the file's name is its name on the command line.

Each has VERSION, PARTS, PROMPTS and IMAGES, BASE_SEED, and the functions `items(prompts)`, `chance(kind)` and `correct(image, want)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from PIL import Image

from metabridge.bridge.errors import UserError, unknown


@dataclass(frozen=True)
class Item:
    """One prompt. Its number is its place in the full suite, so that a limited run draws the same pictures."""

    number: int
    id: str
    part: str  # composition | reasoning
    kind: str  # a tag or a kind of reasoning
    text: str
    rewrite: str  # the canonical plain caption of what is meant
    held_out: bool


class Benchmark(Protocol):
    VERSION: int
    PARTS: Mapping[str, tuple[str, ...]]  # part -> its tags or kinds
    PROMPTS: int  # a tag or kind, in the full suite
    IMAGES: int  # a prompt
    BASE_SEED: int

    def items(self, prompts: Mapping[str, int]) -> list[tuple[Item, Any]]:
        """So many prompts of each tag and kind, each with what its picture must show. Fewer are a part of more."""

    def chance(self, kind: str) -> float | None:
        """What guessing scores on a kind; None where the benchmark does not say."""

    def correct(self, image: Image.Image, want: Any) -> tuple[bool, str]:
        """Whether the picture shows what is wanted, and if not, why."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Benchmark:
    if name not in names():
        raise UserError(unknown(name, names(), "benchmark"))
    return cast(Benchmark, importlib.import_module(f"{__name__}.{name}"))
