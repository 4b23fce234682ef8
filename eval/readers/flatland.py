"""Prompts of the embedded world: six tags of composition and seven kinds of reasoning, and a quarter as many on held-out pairings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metabridge.eval.items import Item
from metabridge.training.flatland.captions import TAGS
from metabridge.training.flatland.prompts import KINDS, Prompt, composition_prompts, reasoning_prompts

PROMPTS = 100  # a tag or kind
_SEED = 0  # of the prompts themselves: they are part of the benchmark and never change within a version


def load(options: Mapping[str, Any], data: Path | None) -> list[Item]:
    return [
        Item(number * PROMPTS + place, prompt.id, prompt.kind, prompt.text, wanted(prompt), held_out=held_out)
        for number, (prompts, held_out) in enumerate(_suite())
        for place, prompt in enumerate(prompts)
    ]


def _suite() -> list[tuple[list[Prompt], bool]]:
    """The prompts of each tag and kind, then those on held-out pairings where there are any."""
    return [
        (choose(kind, math.ceil(PROMPTS / 4) if held_out else PROMPTS, _SEED, held_out), held_out)
        for held_out in (False, True)
        for kinds, choose in ((TAGS, composition_prompts), (KINDS, reasoning_prompts))
        for kind in kinds
    ]


def wanted(prompt: Prompt) -> dict[str, Any]:
    return {**asdict(prompt.want), "rewrite": prompt.rewrite}
