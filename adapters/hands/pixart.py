"""PixArt-alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692): a diffusion transformer with cross attention, predicting noise."""

from __future__ import annotations

import diffusers
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, kl_factor, numbers
from metabridge.bridge.interfaces import Condition

CAPTION_LENGTH = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # tokens that the official pipelines read


class PixArtTransformer2DModel(PeftAdapterMixin, diffusers.PixArtTransformer2DModel):
    """The one of diffusers that its authors left without LoRA."""


class PixArtHand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        config = self.denoiser.config
        self.width: int = config.caption_channels or config.cross_attention_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (config.sample_size * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels, *self.latent_size(height, width, self.factor * self.denoiser.config.patch_size)

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        dtype = self.denoiser.dtype
        predicted: Tensor = self.denoiser(
            latents.to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            encoder_attention_mask=condition.mask,
            timestep=timestep,
            added_cond_kwargs=self._picture(latents),
            return_dict=False,
        )[0]
        return predicted.to(latents.dtype)[:, : latents.shape[1]]  # a learned sigma follows the noise

    def _picture(self, latents: Tensor) -> dict[str, Tensor | None]:
        """What PixArt-alpha at 1024 pixels is told of the picture; the others are told nothing."""
        if not self.denoiser.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = (side * self.factor for side in latents.shape[-2:])
        return {"resolution": numbers((height, width), latents), "aspect_ratio": numbers((height / width,), latents)}


class PixArtNative(Native):
    pipeline_class = diffusers.PixArtSigmaPipeline  # reads captions as PixArtAlphaPipeline does, but for the default length
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            captions, do_classifier_free_guidance=False, device=device, max_sequence_length=self.max_sequence_length
        )
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int | None = None,
    guidance_scale: float = 4.5,
    steps: int = 20,
) -> PixArtHand:
    """A PixArtAlphaPipeline or PixArtSigmaPipeline folder or hub id. `max_sequence_length`: of native prompts; None = as the pipeline's."""
    parts = ("transformer", PixArtTransformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    length = max_sequence_length or CAPTION_LENGTH.get(checkpoint.pipeline, 300)
    native = PixArtNative(checkpoint, length) if checkpoint.has_text_encoder else None
    return PixArtHand(checkpoint, native, guidance_scale, steps)
