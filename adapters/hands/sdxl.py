"""Stable Diffusion XL (arXiv 2307.01952): a UNet that reads two CLIPs and is told the picture's size, over a KL autoencoder."""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.hands.stable_diffusion import refuse_other_inputs
from metabridge.adapters.pretrained import Native, PretrainedHand, attended, kl_factor, numbers
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

SIZES = 6  # numbers that the UNet is told of a picture: original height and width, crop's top and left, target height and width


class SDXLHand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int, references: int = 0) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.look_at(references, self.denoiser.conv_in)
        config = self.denoiser.config
        self.width: int = config.cross_attention_dim
        self.pooled_width = config.projection_class_embeddings_input_dim - SIZES * config.addition_time_embed_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (config.sample_size * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *self.latent_size(height, width, self.factor)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        dtype = self.denoiser.dtype
        height, width = (side * self.factor for side in latents.shape[-2:])
        with self.showing(condition):
            predicted: Tensor = self.denoiser(
                latents.to(dtype),
                timestep,
                encoder_hidden_states=condition.embeds.to(dtype),
                encoder_attention_mask=condition.mask,
                added_cond_kwargs={
                    "text_embeds": condition.pooled.to(dtype),
                    "time_ids": numbers((height, width, 0, 0, height, width), latents),
                },
                return_dict=False,
            )[0]
        return predicted.to(latents.dtype)


class SDXLNative(Native):
    pipeline_class = diffusers.StableDiffusionXLPipeline
    omitted = {"unet": None, "vae": None, "feature_extractor": None, "image_encoder": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Padded to the tokenizers' full length, the padding attended to; where the checkpoint says so, the empty caption is zeros."""
        embeds, _, pooled, _ = self.pipeline.encode_prompt(captions, device=device, do_classifier_free_guidance=False)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            told = torch.tensor([bool(caption) for caption in captions]).to(device, non_blocking=True)
            embeds, pooled = embeds * told[:, None, None], pooled * told[:, None]
        return attended(embeds, pooled)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    references: int = 0,
    weights: str = "pretrained",
    guidance_scale: float = 5.0,
    steps: int = 30,
) -> SDXLHand:
    """A StableDiffusionXLPipeline folder or hub id. The refiner, inpainting and UNets that want anything else are refused.

    `references`: source pictures that it learns to look at.
    """
    parts = ("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    if checkpoint.pipeline != "StableDiffusionXLPipeline" or checkpoint.denoiser.config.addition_embed_type != "text_time":
        raise UserError(f"{repo}: a {checkpoint.pipeline}; hand sdxl is for SDXL's base, a StableDiffusionXLPipeline, not for the refiner")
    refuse_other_inputs(repo, checkpoint, "text_time")
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = SDXLNative(checkpoint) if checkpoint.has_text_encoder else None
    return SDXLHand(checkpoint, native, guidance_scale, steps, references)
