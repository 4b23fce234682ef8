"""Sample sheets: the same prompts and seeds each time, so that one sees it learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from metabridge.bridge.asked import as_examples
from metabridge.bridge.errors import UserError
from metabridge.bridge.files import png, write_whole
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.sheet import compose, shown
from metabridge.training.data import Mixture

SHEET = 8  # drawings on a sheet


def sheet_prompts(recipe: Recipe, bridge: Bridge, mixture: Mixture) -> list[str]:
    """The prompts of the sheets, read once so that a bad one is heard of before the training and not in the middle of it."""
    if not recipe.log.sample_every:
        return []
    prompts = list(recipe.log.prompts) or mixture.prompts(SHEET)
    if not prompts:
        raise UserError("log.prompts: none given, and the data has no prompt without a picture; give some, or set log.sample_every=0")
    try:
        with torch.no_grad():
            bridge.condition(bridge.brain.collate(as_examples(prompts, None)))
    except UserError as error:
        raise UserError(f"log.prompts: {error}") from error
    return prompts


def draw_sheet(pipeline: BridgePipeline, prompts: Sequence[str], seed: int, check: Callable[..., None]) -> list[Image]:
    """Draw the prompts with fixed seeds; `check` may end it between two denoising steps."""
    check()
    seeds = [seed + index for index in range(len(prompts))]
    return pipeline(list(prompts), seeds=seeds, callback_on_step_end=check).images


def save_sheet(images: Sequence[Image], pipeline: BridgePipeline, prompts: Sequence[str], out: Path, step: int) -> Path:
    """samples/step-000500.png."""
    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    tiles = [shown(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    write_whole(path, png(compose(tiles, columns=4, title=f"{pipeline.name} · step {step}"), {}))
    return path
