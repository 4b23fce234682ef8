"""What the hands from diffusers' pipeline folders share: parts loaded one by one, the autoencoder, the native text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from metabridge.adapters.checkpoint import Checkpoint
from metabridge.adapters.loras import lora_of, put_on, switch
from metabridge.adapters.schedules import prediction_of
from metabridge.bridge.diffusion import DiffusionHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

CAPTIONS = ("a red square", "two dogs on a green field", "a city street at night in the rain", "a cup of coffee left of a book")


class PretrainedHand(DiffusionHand):
    """An adapter gives `width`, `factor`, `default_size`, `latent_shape` and `predict`."""

    pooled_width = None
    factor: int  # pixels to a latent, along a side

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__()
        self.denoiser, self.vae, self.scheduler = checkpoint.denoiser, checkpoint.vae, checkpoint.scheduler
        self.identity, self.native = checkpoint.identity, native
        self.lora = lora_of(self.denoiser)
        self.pipeline_class = getattr(diffusers, checkpoint.pipeline)
        self.worn: Sequence[tuple[Path, float]] = ()
        self.prediction = prediction_of(checkpoint.scheduler)
        self.default_guidance, self.default_steps = guidance_scale, steps

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        return (wide(latents_of(self.vae, pixels.to(self.vae.dtype))) - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor + self._shift).sample
        return wide(pixels)

    @property
    def _shift(self) -> float:
        """What the autoencoder's latents are centred on; most know none."""
        return self.vae.config.get("shift_factor") or 0.0

    def latent_size(self, height: int, width: int, step: int, most: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width in latents, where both are multiples of `step` pixels, and not beyond `most` steps."""
        if height < step or width < step or height % step or width % step:
            raise UserError(f"height, width: {height}x{width} given; each is a multiple of {step} for this hand")
        if most is not None and (height > most[0] * step or width > most[1] * step):
            raise UserError(f"height, width: {height}x{width} given; this hand has positions for {most[0] * step}x{most[1] * step}")
        return height // self.factor, width // self.factor

    def refuse_longer(self, condition: Condition, most: int) -> None:
        """A condition longer than the denoiser's table of positions is an error on the CPU, and on a GPU worse."""
        length = condition.embeds.shape[1]
        if length > most:
            raise UserError(f"condition: {length} tokens given; this hand has positions for {most}, lower connector.queries")

    def trainable(self) -> list[nn.Parameter]:
        return self.lora

    def wear(self, files: Sequence[tuple[Path, float]]) -> None:
        """Put LoRA files made elsewhere on the denoiser, each with its weight; `untouched` leaves them on."""
        put_on(self.pipeline_class, {"vae": self.vae, "scheduler": self.scheduler}, self.denoiser, files)
        self.worn = files

    @contextmanager
    def untouched(self) -> Iterator[None]:
        if not self.lora:
            yield
            return
        switch(self.denoiser, self.worn, trained=False)
        try:
            yield
        finally:
            switch(self.denoiser, self.worn, trained=True)

    def describe(self, captions: Sequence[str]) -> Condition | None:
        if self.native is None:
            return None
        condition = self.native(captions, self.denoiser.device)
        if (given := condition.embeds.shape[-1]) != self.width:
            raise UserError(
                f"{self.identity['repo']}: its text encoder gives {given} numbers a token, its denoiser takes {self.width}; "
                "the two do not belong together, give the folder of one pipeline"
            )
        return condition

    def condition_rms(self) -> float:
        if self.native is None:
            return 1.0
        loaded = self.native.loaded
        condition = self.describe(CAPTIONS)
        assert condition is not None
        if not loaded:
            self.native.release()  # gigabytes that only this one number needed
        # zeros stand for padding, or for a text encoder that was left out
        real = condition.embeds[condition.mask.bool() & condition.embeds.any(dim=-1)]
        return float(real.square().mean().sqrt())


class Native:
    """The checkpoint's own text encoder behind the official encode_prompt; loaded when first asked. Not part of what is drawn with."""

    pipeline_class: Any
    omitted: Mapping[str, Any]  # parts of the pipeline that encode_prompt does without

    def __init__(self, checkpoint: Checkpoint, max_sequence_length: int | None = None) -> None:
        """`max_sequence_length`: tokens of a caption, where encode_prompt takes a number."""
        self.max_sequence_length = max_sequence_length
        self.path, self.revision, self.dtype = checkpoint.path, checkpoint.revision, checkpoint.dtype
        self.absent: dict[str, Any] = dict.fromkeys(checkpoint.absent)  # diffusers wants to be told

    @cached_property
    def pipeline(self) -> Any:
        omitted = {**self.absent, **self.omitted}
        return self.pipeline_class.from_pretrained(self.path, revision=self.revision, dtype=self.dtype, **omitted)

    @property
    def loaded(self) -> bool:
        return "pipeline" in self.__dict__

    def release(self) -> None:
        self.__dict__.pop("pipeline", None)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> Condition:
        for name, part in self.pipeline.components.items():
            if name.startswith("text_encoder") and part is not None:
                part.to(device).eval()
        return self.encode(list(captions), device)

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        raise NotImplementedError


def kl_factor(vae: Any) -> int:
    """Pixels to a latent along a side, of a KL autoencoder: every block but the last halves it."""
    return 2 ** (len(vae.config.block_out_channels) - 1)  # type: ignore[no-any-return]


def attended(embeds: Tensor, pooled: Tensor | None = None) -> Condition:
    """A native condition whose padding is attended to, as the official pipelines of many hands do."""
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    return Condition(embeds.float(), mask, None if pooled is None else pooled.float())


def numbers(values: Sequence[float], latents: Tensor) -> Tensor:
    """The same `values` for each row of latents -> [B, len(values)], written on their device without a copy from the host."""
    return torch.stack([latents.new_full(latents.shape[:1], value) for value in values], dim=1)


def latents_of(vae: nn.Module, pixels: Tensor) -> Tensor:
    """What an autoencoder of diffusers makes of pixels, not scaled; of a distribution, its mode."""
    encoded = vae.encode(pixels)  # type: ignore[operator]
    latents: Tensor = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mode()
    return latents


def wide(x: Tensor) -> Tensor:
    """float32 at least: what leaves a hand is never half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
