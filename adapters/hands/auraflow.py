"""AuraFlow (blog.fal.ai/auraflow): a transformer over register, text and picture tokens together, flow matching."""

from __future__ import annotations

import math

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, attended, kl_factor
from metabridge.bridge.interfaces import Condition

DEFAULT_SIDE = 1024  # pixels that the official pipeline draws unless told otherwise


class AuraFlowHand(PretrainedHand):
    masked = False

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        config = self.denoiser.config
        self.width: int = config.joint_attention_dim
        self.factor = kl_factor(self.vae)
        self.positions = math.isqrt(config.pos_embed_max_size)  # of patches, along a side
        self.default_size = (min(DEFAULT_SIDE, self.positions * self.factor * config.patch_size),) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.in_channels, *self.latent_size(height, width, self.factor * config.patch_size, (self.positions,) * 2)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype = self.denoiser.dtype
        predicted: Tensor = self.denoiser(
            latents.to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            timestep=timestep / 1000,
            return_dict=False,
        )[0]
        return predicted.to(latents.dtype)


class AuraFlowNative(Native):
    pipeline_class = diffusers.AuraFlowPipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Padded to the full length with zeros that are attended to: the mask has multiplied them, the denoiser takes none."""
        embeds, _, _, _ = self.pipeline.encode_prompt(
            captions, do_classifier_free_guidance=False, device=device, max_sequence_length=self.max_sequence_length
        )
        return attended(embeds)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 256,
    guidance_scale: float = 3.5,
    steps: int = 50,
) -> AuraFlowHand:
    """An AuraFlowPipeline folder or hub id. `max_sequence_length`: of native prompts, padding and all."""
    parts = ("transformer", diffusers.AuraFlowTransformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = AuraFlowNative(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return AuraFlowHand(checkpoint, native, guidance_scale, steps)
