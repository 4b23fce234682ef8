"""Sample sheets: the same prompts and seeds each time, so that one sees it learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL.Image import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import pictures
from metabridge.bridge.files import png, write_whole
from metabridge.bridge.interfaces import Example
from metabridge.bridge.model import Bridge
from metabridge.bridge.pipeline import BridgePipeline
from metabridge.bridge.recipe import Recipe
from metabridge.bridge.sheet import FAINT, Tile, compose, shown
from metabridge.training.data import Mixture

SHEET = 8  # drawings on a sheet


def sheet_examples(recipe: Recipe, bridge: Bridge, mixture: Mixture) -> list[Example]:
    """What the sheets show, read once so that a bad prompt is heard of before the training and not in the middle of it."""
    if not recipe.log.sample_every:
        return []
    examples = [Example(prompt) for prompt in recipe.log.prompts] or mixture.samples(SHEET)
    if not all(example.prompt.strip() for example in examples):
        raise UserError("log.prompts: prompt: empty; say what to draw")
    if not examples:
        raise UserError("log.prompts: none given, and the data has no row that could be drawn; give some, or set log.sample_every=0")
    try:
        with torch.no_grad():
            bridge.condition(bridge.brain.collate(examples))
    except UserError as error:
        raise UserError(f"log.prompts: {error}") from error
    return examples


def draw_sheet(pipeline: BridgePipeline, examples: Sequence[Example], seed: int, check: Callable[..., None]) -> list[Image]:
    """Draw the examples with fixed seeds; `check` may end it between two denoising steps."""
    check()
    seeds = [seed + index for index in range(len(examples))]
    return pipeline.draw_examples(examples, seeds, callback_on_step_end=check)


def save_sheet(images: Sequence[Image], pipeline: BridgePipeline, examples: Sequence[Example], out: Path, step: int) -> Path:
    """samples/step-000500.png; before a drawing from pictures, the last of them."""
    path = out / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(exist_ok=True)
    tiles = []
    for image, example in zip(images, examples, strict=True):
        if seen := pictures(example):
            tiles.append(Tile(seen[-1], (("given", FAINT),)))
        tiles.append(shown(image, example.prompt, example.thought))
    write_whole(path, png(compose(tiles, columns=4, title=f"{pipeline.name} · step {step}"), {}))
    return path
