"""Flatland: six tags of composition and seven kinds of reasoning on the embedded world, scored exactly from pixels (no judge)."""

from __future__ import annotations

import math
from functools import cache

from PIL import Image

from metabridge.eval.benchmarks import Item
from metabridge.eval.detect import flatland as checker
from metabridge.training.flatland import prompts
from metabridge.training.flatland.captions import TAGS, Want
from metabridge.training.flatland.prompts import KINDS

VERSION = 1
PROMPTS = 100
IMAGES = 2
BASE_SEED = 0
_PROMPT_SEED = 0  # of the prompts themselves: they are part of the benchmark and never change within a version


def items(limit: int) -> list[tuple[Item, Want]]:
    """The first `limit` prompts of each tag and kind, and a quarter as many on held-out pairings where there are any."""
    return [
        (Item(group * PROMPTS + place, p.id, part, p.kind, p.text, p.rewrite, held_out), p.want)
        for group, (part, chosen, held_out) in enumerate(_suite())
        for place, p in enumerate(chosen[: math.ceil(limit / 4) if held_out else limit])
    ]


@cache
def _suite() -> list[tuple[str, list[prompts.Prompt], bool]]:
    """All prompts: (part, prompts of one tag or kind, held out)."""
    return [
        (part, choose(name, PROMPTS, _PROMPT_SEED, held_out=held_out), held_out)
        for held_out in (False, True)
        for part, names, choose in (
            ("composition", TAGS, prompts.composition_prompts),
            ("reasoning", KINDS, prompts.reasoning_prompts),
        )
        for name in names
    ]


def chance(kind: str) -> float | None:
    """What a drawer scores that knows the form of the answer but guesses its content."""
    return prompts.chance(kind) if kind in KINDS else None


def correct(image: Image.Image, want: Want) -> tuple[bool, str]:
    return checker.correct(image, want)
