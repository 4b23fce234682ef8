"""Flatland: six tags of composition and seven kinds of reasoning on the embedded world, scored exactly from pixels (no judge)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

from PIL import Image

from metabridge.eval.benchmarks import Item
from metabridge.eval.detect import flatland as checker
from metabridge.training.flatland.captions import TAGS, Want
from metabridge.training.flatland.prompts import KINDS, Prompt, composition_prompts, reasoning_prompts
from metabridge.training.flatland.prompts import chance as chance_of_kind

VERSION = 1
PARTS = {"composition": TAGS, "reasoning": KINDS}
PROMPTS = 100
IMAGES = 2
BASE_SEED = 0
_PROMPT_SEED = 0  # of the prompts themselves: they are part of the benchmark and never change within a version


def items(prompts: Mapping[str, int]) -> list[tuple[Item, Want]]:
    """The first prompts of each tag and kind, and a quarter as many on held-out pairings where there are any."""
    return [
        (Item(group * PROMPTS + place, p.id, part, p.kind, p.text, p.rewrite, held_out), p.want)
        for group, (part, kind, chosen, held_out) in enumerate(_suite())
        for place, p in enumerate(chosen[: math.ceil(prompts[kind] / 4) if held_out else prompts[kind]])
    ]


@cache
def _suite() -> list[tuple[str, str, list[Prompt], bool]]:
    """All prompts: (part, tag or kind, its prompts, held out)."""
    return [
        (part, kind, _CHOOSE[part](kind, PROMPTS, _PROMPT_SEED, held_out), held_out)
        for held_out in (False, True)
        for part, kinds in PARTS.items()
        for kind in kinds
    ]


_CHOOSE = {"composition": composition_prompts, "reasoning": reasoning_prompts}


def chance(kind: str) -> float | None:
    """What a drawer scores that knows the form of the answer but guesses its content."""
    return chance_of_kind(kind) if kind in KINDS else None


def correct(image: Image.Image, want: Want) -> tuple[bool, str]:
    return checker.correct(image, want)
