"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer over text and picture tokens together, flow matching."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, attended, kl_factor
from metabridge.adapters.schedules import mu_of
from metabridge.bridge.interfaces import Condition


class SD3Hand(PretrainedHand):
    masked = False

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        config = self.denoiser.config
        self.width: int = config.joint_attention_dim
        self.pooled_width = config.pooled_projection_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (config.sample_size * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.denoiser.config
        most = (config.pos_embed_max_size,) * 2
        return config.in_channels, *self.latent_size(height, width, self.factor * config.patch_size, most)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        if not self.scheduler.config.get("use_dynamic_shifting"):
            return super().schedule(steps, shape, device)
        scheduler, patch = copy.deepcopy(self.scheduler), self.denoiser.config.patch_size
        mu = mu_of(scheduler.config, (shape[1] // patch) * (shape[2] // patch))
        scheduler.set_timesteps(steps, device=device, mu=mu)
        return scheduler

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        dtype = self.denoiser.dtype
        predicted: Tensor = self.denoiser(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            pooled_projections=condition.pooled.to(dtype),
            timestep=timestep,
            return_dict=False,
        )[0]
        return predicted.to(latents.dtype)


class SD3Native(Native):
    pipeline_class = diffusers.StableDiffusion3Pipeline

    def __init__(self, checkpoint: Checkpoint, max_sequence_length: int) -> None:
        super().__init__(checkpoint, max_sequence_length)
        # the denoiser's width is that of the zeros which stand for a T5 that was left out
        self.omitted = {"transformer": checkpoint.denoiser, "vae": None, "image_encoder": None, "feature_extractor": None}

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Both CLIPs' tokens, then T5's; all padded to their full length, the padding attended to."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            captions, None, None, device=device, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return attended(embeds, pooled)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 256,
    guidance_scale: float = 7.0,
    steps: int = 28,
) -> SD3Hand:
    """A StableDiffusion3Pipeline folder or hub id. `max_sequence_length`: T5's tokens of a native prompt, beside the CLIPs' own."""
    parts = ("transformer", diffusers.SD3Transformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = SD3Native(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return SD3Hand(checkpoint, native, guidance_scale, steps)
