"""Sana (arXiv 2410.10629): a linear-attention diffusion transformer over a deep-compression autoencoder, flow matching."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition


class SanaHand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int, references: int = 0) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.look_at(references, self.denoiser.patch_embed.proj)
        self.width: int = self.denoiser.config.caption_channels
        self.factor = self.vae.spatial_compression_ratio
        self.default_size = (self.denoiser.config.sample_size * self.factor,) * 2
        self.time_scale: float = self.denoiser.config.timestep_scale
        self.distilled_guidance: float | None = None  # the scale that a distilled denoiser is told

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *self.latent_size(height, width, self.factor * self.denoiser.config.patch_size)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype = self.denoiser.dtype
        with self.showing(condition):
            predicted: Tensor = self.denoiser(
                latents.to(dtype),
                encoder_hidden_states=condition.embeds.to(dtype),
                encoder_attention_mask=condition.mask,
                timestep=timestep * self.time_scale,
                guidance=self._guidance(latents),
                return_dict=False,
            )[0]
        return predicted.to(latents.dtype)[:, : latents.shape[1]]  # a learned sigma would follow the velocity

    def _guidance(self, latents: Tensor) -> Tensor | None:
        if self.distilled_guidance is None:
            return None
        return latents.new_full(latents.shape[:1], self.distilled_guidance * self.denoiser.config.guidance_embeds_scale)


class SanaNative(Native):
    pipeline_class: Any = diffusers.SanaPipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def __init__(self, checkpoint: Checkpoint, max_sequence_length: int, instruction: bool) -> None:
        super().__init__(checkpoint, max_sequence_length)
        # what the official pipeline writes before every prompt, but not before the empty one
        call = inspect.signature(self.pipeline_class.__call__).parameters
        self.instruction = call["complex_human_instruction"].default if instruction else None

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        told = [i for i, caption in enumerate(captions) if caption]
        silent = [i for i, caption in enumerate(captions) if not caption]
        parts = [
            self._encode([captions[i] for i in rows], device, instruction)
            for rows, instruction in ((told, self.instruction), (silent, None))
            if rows
        ]
        order = torch.tensor([*told, *silent]).argsort().to(device, non_blocking=True)
        return Condition.cat(parts).rows(order)

    def _encode(self, captions: list[str], device: torch.device, instruction: list[str] | None) -> Condition:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            captions,
            do_classifier_free_guidance=False,
            device=device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
        )
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    references: int = 0,
    weights: str = "pretrained",
    max_sequence_length: int = 300,
    instruction: bool = False,
    guidance_scale: float = 4.5,
    steps: int = 20,
) -> SanaHand:
    """A SanaPipeline folder or hub id. `references`: source pictures that it learns to look at.

    `instruction`: write the official "complex human instruction" before native prompts.
    """
    parts = ("transformer", diffusers.SanaTransformer2DModel), ("vae", diffusers.AutoencoderDC)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    if checkpoint.denoiser.config.guidance_embeds:
        raise UserError(f"{repo}: a {checkpoint.pipeline}, distilled to be told its guidance; hand sana_sprint draws with it")
    native = SanaNative(checkpoint, max_sequence_length, instruction) if checkpoint.has_text_encoder else None
    return SanaHand(checkpoint, native, guidance_scale, steps, references)
