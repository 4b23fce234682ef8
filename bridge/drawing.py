"""From conditions to images: grouped by size, cut into chunks by item index, guided, denoised, decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from metabridge.bridge.errors import UserError
from metabridge.bridge.examples import pictures, sources
from metabridge.bridge.interfaces import Condition, Example, Hand
from metabridge.bridge.nulls import Null
from metabridge.bridge.preserve import changed, keeping
from metabridge.bridge.sampling import initial_noise
from metabridge.bridge.sizes import Size, size_like, stacked

PICTURED = Example("", (Image.new("RGB", (1, 1)),))  # stands for any that comes with a picture, where settings are looked at
OUTPUT_TYPES = ("pil", "pt", "latent")


class NotFinite(UserError):
    """What was drawn is no picture: a fault of this drawing, not of what was asked."""


@dataclass(frozen=True)
class Settings:
    """How to draw, with every default filled in."""

    size: Size | None  # None = each prompt its own: like its picture where the hand looks at it, or the hand's default
    steps: int
    guidance: float
    image_guidance: float
    negative_prompt: str
    preserve: float
    references: bool  # whether the hand is given the pictures, too, where it takes some; the brain sees them in any case
    output_type: str
    callback: Callable[[int, Tensor, Tensor], Any] | None  # (step, timestep, latents)


def settings_of(
    hand: Hand,
    examples: Sequence[Example],
    guidance_scale: float | None = None,
    image_guidance_scale: float = 1.0,
    num_inference_steps: int | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    preserve: float = 0.0,
    references: bool = True,
    output_type: str = "pil",
    callback: Callable[[int, Tensor, Tensor], Any] | None = None,
) -> Settings:
    """What a caller gave, checked, with the hand's defaults."""
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"output_type: {output_type!r} given; it is one of: {', '.join(OUTPUT_TYPES)}")
    steps = hand.default_steps if num_inference_steps is None else num_inference_steps
    if steps < 1:
        raise UserError(f"num_inference_steps: {steps} given; it is 1 at least")
    seen = [bool(pictures(example)) for example in examples]
    if image_guidance_scale != 1.0 and not any(seen):
        raise UserError(f"image_guidance_scale: {image_guidance_scale:g} given, but no prompt comes with a picture; leave it at 1")
    if not 0 <= preserve <= 1:
        raise UserError(f"preserve: {preserve:g} given; it is 0 (draw all anew) to 1 (keep all)")
    if preserve and not all(seen):
        raise UserError(f"preserve: {preserve:g} given, but a prompt comes without a picture to keep anything of; leave it at 0")
    if not references and not hand.references:
        raise UserError("references: False given, but this hand is given no source pictures in any case; leave it out")
    size = None
    if height is not None or width is not None:
        size = (hand.default_size[0] if height is None else height, hand.default_size[1] if width is None else width)
        if min(size) < 1:
            raise UserError(f"height, width: {size[0]} x {size[1]} given; a picture has one pixel at least")
        hand.latent_shape(*size)  # says what it may be, if not this
    guidance = hand.default_guidance if guidance_scale is None else guidance_scale
    if negative_prompt and guidance == image_guidance_scale == 1 and not preserve:
        raise UserError("negative_prompt: has no effect at guidance_scale 1; raise that, or leave it out")
    return Settings(size, steps, guidance, image_guidance_scale, negative_prompt or "", preserve, references, output_type, callback)


@dataclass(frozen=True)
class Drawing:
    """Everything that the hand is told, a row a prompt."""

    hand: Hand
    examples: Sequence[Example]
    condition: Condition
    nulls: Sequence[Null]
    settings: Settings
    untold: Condition | None = None  # of the pictures without the words; where something is to be preserved
    name: str = "bridge"

    def images(self, each: int, generators: Sequence[torch.Generator], batch_size: int) -> list[Any]:
        """`each` images a prompt, of a generator each."""
        sizes = [self.settings.size or self._own_size(example) for example in self.examples]
        images: list[Any] = [None] * len(generators)
        for size in dict.fromkeys(sizes):
            latents = self._sources(size, [k for k, own in enumerate(sizes) if own == size], batch_size)
            rows = [i for i in range(len(generators)) if sizes[i // each] == size]
            for start in range(0, len(rows), batch_size):
                chunk = rows[start : start + batch_size]
                drawn = self._chunk([i // each for i in chunk], [generators[i] for i in chunk], size, latents)
                for i, image in zip(chunk, drawn, strict=True):
                    images[i] = image
        return images

    @property
    def _references(self) -> int:
        """Source pictures that the hand is given, at most."""
        return self.hand.references if self.settings.references else 0

    def _own_size(self, example: Example) -> Size:
        seen = pictures(example)
        looked_at = self.hand.references or self.settings.preserve
        return size_like(self.hand, seen[-1]) if seen and looked_at else self.hand.default_size

    def _sources(self, size: Size, rows: Sequence[int], batch_size: int) -> dict[int, Tensor]:
        """Latents [R, C, h, w] of the pictures that the hand is given, of those prompts that have some."""
        most = max(self._references, 1 if self.settings.preserve else 0)
        found = {k: own for k in rows if (own := sources(self.examples[k], most))}
        every = [picture for own in found.values() for picture in own]
        device = self.condition.embeds.device
        parts = [self.hand.encode(stacked(every[k : k + batch_size], size).to(device)) for k in range(0, len(every), batch_size)]
        if not parts:
            return {}
        return dict(zip(found, torch.split(torch.cat(parts), [len(own) for own in found.values()]), strict=True))

    def _chunk(self, own: list[int], generators: list[torch.Generator], size: Size, latents: dict[int, Tensor]) -> list[Any]:
        """Images of the prompts `own`, which may come more than once."""
        hand, settings = self.hand, self.settings
        index = torch.tensor(own, device=self.condition.embeds.device)
        references = None
        if self._references and (shown := next((latents[k] for k in own if k in latents), None)) is not None:
            references = pad_sequence([latents.get(k, shown[:0]) for k in own], batch_first=True)

        def seeing(condition: Condition, pictured: bool = True) -> Condition:
            return dataclasses.replace(condition.rows(index), references=references if pictured else None)

        told, shape, adjust = seeing(self.condition), hand.latent_shape(*size), None
        if self.untold is not None:
            source = torch.stack([latents[k][-1] for k in own])
            change = changed(hand, source, told, seeing(self.untold), settings.preserve)
            noise = initial_noise(shape, [copied(generator) for generator in generators], source.device)
            adjust = keeping(source, noise, change, hand.prediction == "flow")
        weaker = [seeing(null.condition, null.pictured) for null in self.nulls]
        scales = [null.scale for null in self.nulls]
        drawn = hand.draw(told, weaker, shape, settings.steps, scales, generators, settings.callback, adjust)
        return self._finished(drawn)

    def _finished(self, latents: Tensor) -> list[Any]:
        if self.settings.output_type == "latent":
            return list(latents)
        pixels = self.hand.decode(latents)
        failed = ~(finite(latents) & finite(pixels))
        if self.settings.output_type == "pil" and bool(failed.any()):
            raise NotFinite(f"{self.name}: drawing gave NaN or infinity; a lower guidance_scale or dtype: float32 may help")
        # one failed picture is the caller's to count: the others are as good as ever
        return finish(pixels.masked_fill(failed[:, None, None, None], torch.nan), self.settings.output_type)


def copied(generator: torch.Generator) -> torch.Generator:
    """One that will give what `generator` would, which stays as it is."""
    return torch.Generator().set_state(generator.get_state())


def finite(x: Tensor) -> Tensor:
    """[B, ...] -> [B], whether a row is finite throughout."""
    return x.isfinite().flatten(1).all(dim=1)


def finish(pixels: Tensor, output_type: str) -> list[Any]:
    """[B, 3, H, W] in about [-1, 1] -> pt or pil."""
    pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return list(pixels)
    array = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]
