"""Stable Diffusion 1.x and 2.x (arXiv 2112.10752): a UNet with cross attention over a KL autoencoder, predicting noise or v."""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, attended, kl_factor
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition


class StableDiffusionHand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int, references: int = 0) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.look_at(references, self.denoiser.conv_in)
        config = self.denoiser.config
        self.width: int = config.encoder_hid_dim or config.cross_attention_dim  # the first where the UNet projects the text itself
        self.factor = kl_factor(self.vae)
        self.default_size = (config.sample_size * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *self.latent_size(height, width, self.factor)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype = self.denoiser.dtype
        with self.showing(condition):
            predicted: Tensor = self.denoiser(
                latents.to(dtype),
                timestep,
                encoder_hidden_states=condition.embeds.to(dtype),
                encoder_attention_mask=condition.mask,
                return_dict=False,
            )[0]
        return predicted.to(latents.dtype)


def refuse_other_inputs(repo: str, checkpoint: Checkpoint, known: str) -> None:
    """A UNet can be made to want more than a text, or another text; `known` is the one addition that the hand gives it."""
    config = checkpoint.denoiser.config
    for name in ("addition_embed_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim", "encoder_hid_dim_type"):
        if config[name] not in (None, known):
            raise UserError(
                f"{repo}: a {checkpoint.pipeline} whose UNet wants more than a text ({name}: {config[name]}); see metabridge ls hands"
            )
    if not isinstance(config.cross_attention_dim, int):
        raise UserError(f"{repo}: a {checkpoint.pipeline} whose UNet wants texts of several widths; see metabridge ls hands")


class StableDiffusionNative(Native):
    pipeline_class = diffusers.StableDiffusionPipeline
    omitted = {  # noqa: RUF012
        "unet": None,
        "vae": None,
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Padded to the tokenizer's full length, the padding attended to: as the official pipeline does."""
        embeds, _ = self.pipeline.encode_prompt(captions, device, num_images_per_prompt=1, do_classifier_free_guidance=False)
        return attended(embeds)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    references: int = 0,
    weights: str = "pretrained",
    guidance_scale: float = 7.5,
    steps: int = 30,
) -> StableDiffusionHand:
    """A StableDiffusionPipeline folder or hub id. SDXL, inpainting and other UNets that want more than a text are refused.

    `references`: source pictures that it learns to look at.
    """
    parts = ("unet", diffusers.UNet2DConditionModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_inputs(repo, checkpoint, "text_proj")
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = StableDiffusionNative(checkpoint) if checkpoint.has_text_encoder else None
    return StableDiffusionHand(checkpoint, native, guidance_scale, steps, references)
