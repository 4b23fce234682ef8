"""What the hands from diffusers' pipeline folders share: parts loaded one by one, the autoencoder, the native text encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from metabridge.adapters.blocks import blocks_of
from metabridge.adapters.checkpoint import Checkpoint
from metabridge.adapters.locate import hub_error
from metabridge.adapters.loras import lora_of, put_on, switch
from metabridge.adapters.references import ReferenceInput
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
        self.reference_input: ReferenceInput | None = None
        self.full, self.dtype = checkpoint.train == "full", checkpoint.dtype
        named = self.denoiser.named_parameters()
        self.trained = [parameter for name, parameter in named if self.heard(name)] if self.full else lora_of(self.denoiser)
        self._load_original = checkpoint.original
        self._original: list[nn.Module] = []  # in a list: no part of the hand that draws, or is saved
        self.pipeline_class = getattr(diffusers, checkpoint.pipeline)
        self.worn: Sequence[tuple[Path, float]] = ()
        self.prediction = prediction_of(checkpoint.scheduler)
        self.default_guidance, self.default_steps = guidance_scale, steps

    @torch.no_grad()
    def encode(self, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        latents = wide(latents_of(self.vae, pixels.to(self.vae.dtype), seeds))
        return (latents - self._shift) * float(self.vae.config.scaling_factor)

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

    def look_at(self, references: int, first: nn.Conv2d) -> None:
        """Take source pictures through further channels of the denoiser's first convolution; 0 = none."""
        if references:
            self.reference_input, self.references = ReferenceInput(first, references), references
            self.trained = [*self.trained, *self.reference_input.parameters()]

    def showing(self, condition: Condition) -> AbstractContextManager[None]:
        """Around a pass of the denoiser: the condition's source pictures are beside the latents."""
        return nullcontext() if self.reference_input is None else self.reference_input.showing(condition.references)

    def trainable(self) -> list[nn.Parameter]:
        return self.trained

    def heard(self, name: str) -> bool:
        """Whether a parameter of the denoiser has a say in the prediction; one that has none gets no gradient."""
        return True

    def second_copy(self) -> int:
        return sum(parameter.numel() for parameter in self.denoiser.parameters()) * self.dtype.itemsize if self.full else 0

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self.denoiser)

    def wear(self, files: Sequence[tuple[Path, float]]) -> None:
        """Put LoRA files made elsewhere on the denoiser, each with its weight; `untouched` leaves them on."""
        if self.full:
            raise UserError("hand.loras: they were made for the hand as it came, not for one with hand.train=full; leave them out")
        put_on(self.pipeline_class, {"vae": self.vae, "scheduler": self.scheduler}, self.denoiser, files)
        self.worn = files
        worn = b"".join(f"{weight!r} ".encode() + hashlib.sha256(path.read_bytes()).digest() for path, weight in files)
        self.identity = {**self.identity, "loras": hashlib.sha256(worn).hexdigest()}

    @contextmanager
    def untouched(self) -> Iterator[None]:
        if not self.full and not lora_of(self.denoiser):
            yield
        elif self.full:
            trained = self.denoiser
            self.denoiser = self._as_it_came()
            try:
                yield
            finally:
                self.denoiser = trained
        else:
            switch(self.denoiser, self.worn, trained=False)
            try:
                yield
            finally:
                switch(self.denoiser, self.worn, trained=True)

    def _as_it_came(self) -> Any:
        """The frozen denoiser that a fully trained one began as; read from its checkpoint when first asked for."""
        if not self._original:
            self._original.append(self._load_original())
        return nn.Module.to(self._original[0], self.denoiser.device)

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
        try:
            return self.pipeline_class.from_pretrained(self.path, revision=self.revision, dtype=self.dtype, **omitted)
        except OSError as error:
            raise hub_error(str(self.path), self.revision, error) from error

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


def latents_of(vae: nn.Module, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
    """What an autoencoder of diffusers makes of pixels, not scaled; of a distribution its mean, or with `seeds` a sample, a seed a row."""
    encoded = vae.encode(pixels)  # type: ignore[operator]
    if hasattr(encoded, "latent"):
        if seeds is not None:
            raise UserError("objective.latents: sample given, but this hand's autoencoder gives no distribution; set it to mean")
        latents: Tensor = encoded.latent
        return latents
    mean: Tensor = encoded.latent_dist.mode()
    if seeds is None:
        return mean
    noise = torch.stack([torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    # z = mean + std eps                                                   Kingma & Welling 2014, sec. 2.4
    sample: Tensor = mean + encoded.latent_dist.std * noise.to(mean)
    return sample


def wide(x: Tensor) -> Tensor:
    """float32 at least: what leaves a hand is never half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
