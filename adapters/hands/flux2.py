"""FLUX.2 dev and klein: a transformer over caption and pictures in whitened patches of latents, captions as three layers of an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import diffusers
import torch
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor
from torch.nn import functional as F

from metabridge.adapters.checkpoint import Checkpoint, guidance_told, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, attended, kl_factor, latents_of, wide
from metabridge.adapters.processors import image_only, processor_class_of
from metabridge.adapters.reference_tokens import SeeingHand, pictures_in, references_of, sequence
from metabridge.adapters.schedules import with_mu
from metabridge.bridge.interfaces import Condition

PATCH = 2  # of the autoencoder's latents; what is called latents here, and what is denoised, are patches
SAMPLE_SIZE = 128  # the autoencoder's latents along a side of the official pipeline's default picture
REFERENCES = {"Flux2Pipeline": 6, "Flux2KleinPipeline": 4}  # docs.bfl.ai; a KleinKV's attend otherwise
TIME_STEP = 10  # from one picture of the sequence to the next


class Flux2Hand(SeeingHand):
    masked = False

    def __init__(
        self,
        checkpoint: Checkpoint,
        native: Native | None,
        guidance_scale: float,
        steps: int,
        distilled_guidance: float | None,
        references: int = 0,
    ) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.width: int = self.denoiser.config.joint_attention_dim
        self.factor = PATCH * kl_factor(self.vae)
        self.default_size = (SAMPLE_SIZE // PATCH * self.factor,) * 2
        self.distilled_guidance, self.references = distilled_guidance, references

    @torch.no_grad()
    def encode(self, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        mean, std = self._statistics()
        patches = F.pixel_unshuffle(wide(latents_of(self.vae, pixels.to(self.vae.dtype), seeds)), PATCH)
        return ((patches - mean) / std).contiguous()  # unshuffled, they are channels-last: decode would round otherwise

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        pixels: Tensor = self.vae.decode(F.pixel_shuffle(latents * std + mean, PATCH).to(self.vae.dtype)).sample
        return wide(pixels)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of a patch, [C, 1, 1]."""
        mean, variance = (wide(x).view(-1, 1, 1) for x in (self.vae.bn.running_mean, self.vae.bn.running_var))
        return mean, (variance + self.vae.config.batch_norm_eps).sqrt()

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *self.latent_size(height, width, self.factor)

    def predict_alike(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        (height, width), dtype = latents.shape[-2:], self.denoiser.dtype
        predicted: Tensor = self.denoiser(
            sequence(latents, condition.references, as_tokens).to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            timestep=timestep / 1000,
            img_ids=places(pictures_in(condition), height, width, 1, device=latents.device),
            txt_ids=places(1, 1, 1, condition.embeds.shape[1], device=latents.device),
            guidance=None if self.distilled_guidance is None else latents.new_full(latents.shape[:1], self.distilled_guidance),
            return_dict=False,
        )[0]
        return predicted[:, : height * width].transpose(1, 2).reshape(latents.shape).to(latents.dtype)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return with_mu(self.scheduler, steps, compute_empirical_mu(shape[1] * shape[2], steps), device)


def as_tokens(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h * w, C]."""
    return latents.flatten(2).transpose(1, 2)


def places(pictures: int, height: int, width: int, length: int, device: torch.device) -> Tensor:
    """[tokens, 4]: of each token its (time, row, column, number in the text), the number counted fastest."""
    time, *others = (torch.arange(size, device=device) for size in (pictures, height, width, length))
    return torch.cartesian_prod(TIME_STEP * time, *others)


class Flux2Native(Native):
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def __init__(self, checkpoint: Checkpoint, max_sequence_length: int) -> None:
        super().__init__(checkpoint, max_sequence_length)
        self.pipeline_class = getattr(diffusers, checkpoint.pipeline)  # dev reads captions with Mistral, klein with Qwen3
        if self.pipeline_class is diffusers.Flux2Pipeline:
            # dev's processor reads pictures too, and as diffusers would load it asks for torchvision
            self.omitted = {**self.omitted, "tokenizer": None}

    @cached_property
    def pipeline(self) -> Any:
        loaded = super().pipeline
        if loaded.tokenizer is None:
            processor_class = image_only(processor_class_of(loaded.text_encoder.config))
            processor = processor_class.from_pretrained(self.path, subfolder="tokenizer", revision=self.revision, backend="pil")
            loaded.register_modules(tokenizer=processor)
        return loaded

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """In the text encoder's chat template, the padding attended to: as the official pipelines do."""
        embeds, _ = self.pipeline.encode_prompt(captions, device=device, max_sequence_length=self.max_sequence_length)
        return attended(embeds)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 512,
    distilled_guidance: float | None = None,
    guidance_scale: float = 1.0,
    steps: int = 50,
    references: int | None = None,
) -> Flux2Hand:
    """A Flux2Pipeline or Flux2KleinPipeline folder or hub id. `distilled_guidance`: None = 4 for dev; klein takes none, its base
    guidance_scale 4, its distilled ones 4 steps.

    `references`: source pictures that it is given at most; None = as many as its makers advise, 6 for dev and 4 for klein. Each takes
    as many tokens as the picture that is drawn.
    """
    parts = ("transformer", diffusers.Flux2Transformer2DModel), ("vae", diffusers.AutoencoderKLFlux2)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels // PATCH**2)
    told = guidance_told(checkpoint, distilled_guidance, usual=4.0)
    native = Flux2Native(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return Flux2Hand(checkpoint, native, guidance_scale, steps, told, references_of(checkpoint, references, REFERENCES))
