"""What a caller of the pipeline gives: prompts, pictures, thoughts, seeds. Checked before anything is read or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Example
from metabridge.bridge.pixels import readable, upright

Pictures = Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]] | None
Thoughts = str | Sequence[str | None] | None
LONGEST = 8192  # pixels of a side
SEEDS = 2**48  # seeds that are drawn lie below


def as_examples(prompt: str | Sequence[str], image: Pictures = None, thought: Thoughts = None) -> list[Example]:
    """Prompts with their pictures and thoughts; for one prompt `image` is a picture or several, for a list of prompts one entry each."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise UserError("prompt: empty; say what to draw")
    thoughts = [thought] if isinstance(thought, str) else [None] * len(prompts) if thought is None else list(thought)
    if len(thoughts) != len(prompts):
        raise UserError(f"thought: {len(thoughts)} given for {len(prompts)} prompts; give one for each prompt")
    if image is None:
        pictures: list[Any] = [()] * len(prompts)
    else:
        pictures = [image] if isinstance(prompt, str) else as_list(image)
    if len(pictures) != len(prompts):
        raise UserError(f"image: {len(pictures)} entries for {len(prompts)} prompts; give one for each prompt")
    each = [(p,) if isinstance(p, Image.Image) else tuple(as_list(p)) for p in pictures]
    seen = [tuple(_seen(picture) for picture in own) for own in each]
    return [Example(p, own, thought=t) for p, own, t in zip(prompts, seen, thoughts, strict=True)]


def as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(given)
    return [given]


def _seen(picture: Image.Image) -> Image.Image:
    """Upright, so that the brain, the hand and the size of the drawing agree."""
    check_picture(picture)
    with readable(picture):
        return upright(picture)


def check_picture(picture: object) -> None:
    if not isinstance(picture, Image.Image):
        raise UserError(f"image: {type(picture).__name__} given; give a PIL image, as Image.open(path) makes one")
    if not picture.width or not picture.height:
        raise UserError(f"image: {picture.width}x{picture.height} pixels given; a picture has one pixel at least")
    if max(picture.size) > LONGEST:
        raise UserError(f"image: {picture.width}x{picture.height} pixels given; {LONGEST} a side at most, scale it down first")


def as_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, seeds: Sequence[int] | None, count: int
) -> tuple[list[torch.Generator], list[int]]:
    """One CPU generator an image, from seeds, from generators, or from one generator that gives the seeds."""
    if generator is not None and seeds is not None:
        raise UserError("generator and seeds: both given; give one of them")
    if count < 1:
        raise UserError("num_images_per_prompt: it is 1 at least")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator or ())
    if any(g.device.type != "cpu" for g in generators):
        raise UserError("generator: on a GPU; noise is drawn on the CPU so that it does not depend on the device, use torch.Generator()")
    if generator is not None and not isinstance(generator, torch.Generator):
        if len(generators) != count:
            raise UserError(f"generator: {len(generators)} given for {count} images; give one for each image, or a single one")
        return generators, [g.initial_seed() for g in generators]
    if seeds is None:
        seeds = torch.randint(SEEDS, (count,), generator=generator).tolist()
    if isinstance(seeds, int):
        raise UserError(f"seeds: {seeds} given; give a list, one seed for each of {count} images")
    if len(seeds) != count:
        raise UserError(f"seeds: {len(seeds)} given for {count} images; give one for each image")
    return [torch.Generator().manual_seed(seed) for seed in seeds], list(seeds)
