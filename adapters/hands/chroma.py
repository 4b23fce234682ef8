"""Chroma: FLUX.1's transformer without its pooled text, over latents packed 2x2, flow matching, padding masked."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.packing import image_ids, pack, unpack
from metabridge.adapters.pretrained import Native, PretrainedHand, kl_factor
from metabridge.adapters.schedules import shifted
from metabridge.bridge.interfaces import Condition

DEFAULT_LATENTS = 128  # along a side, of what the official pipeline draws unless told otherwise


class ChromaHand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.width: int = self.denoiser.config.joint_attention_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (DEFAULT_LATENTS * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels // 4, *self.latent_size(height, width, self.factor * 2)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return shifted(self.scheduler, steps, shape[1] * shape[2] // 4, device)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype, (height, width) = self.denoiser.dtype, latents.shape[-2:]
        tokens = pack(latents.to(dtype))
        # a bool hides what is 0; the official encode_prompt's floats are added to the scores and hide nothing (diffusers issue 12116)
        mask = torch.cat([condition.mask.bool(), condition.mask.new_ones(tokens.shape[:2], dtype=torch.bool)], dim=1)
        predicted: Tensor = self.denoiser(
            hidden_states=tokens,
            encoder_hidden_states=condition.embeds.to(dtype),
            timestep=timestep / 1000,
            img_ids=image_ids(height, width, latents.device),
            txt_ids=latents.new_zeros(condition.embeds.shape[1], 3),
            attention_mask=mask,
            return_dict=False,
        )[0]
        return unpack(predicted.to(latents.dtype), height, width)


class ChromaNative(Native):
    pipeline_class = diffusers.ChromaPipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """The mask leaves the first token of padding to attend to, as Chroma was trained."""
        embeds, _, mask, _, _, _ = self.pipeline.encode_prompt(
            captions, device=device, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return Condition(embeds.float(), mask.long())


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 512,
    guidance_scale: float = 5.0,
    steps: int = 35,
) -> ChromaHand:
    """A ChromaPipeline folder or hub id. `max_sequence_length`: of native prompts, padding and all."""
    parts = ("transformer", diffusers.ChromaTransformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels // 4)
    native = ChromaNative(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return ChromaHand(checkpoint, native, guidance_scale, steps)
