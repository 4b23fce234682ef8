"""FLUX.1 dev, schnell and Kontext: a transformer over caption and pictures in packed latents, flow matching, guidance as a number."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, guidance_told, load_checkpoint, refuse_other_channels
from metabridge.adapters.packing import image_ids, pack, unpack
from metabridge.adapters.pretrained import Native, attended, kl_factor
from metabridge.adapters.reference_tokens import SeeingHand, pictures_in, references_of, sequence
from metabridge.adapters.schedules import shifted
from metabridge.bridge.interfaces import Condition

SAMPLE_SIZE = 128  # latents along a side of the official pipeline's default picture
REFERENCES = {"FluxKontextPipeline": 1}


class FluxHand(SeeingHand):
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
        self.pooled_width = self.denoiser.config.pooled_projection_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (SAMPLE_SIZE * self.factor,) * 2
        self.distilled_guidance, self.references = distilled_guidance, references

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels // 4, *self.latent_size(height, width, 2 * self.factor)

    def predict_alike(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        assert condition.pooled is not None
        (height, width), dtype = latents.shape[-2:], self.denoiser.dtype
        places = [image_ids(height, width, latents.device, picture) for picture in range(pictures_in(condition))]
        predicted: Tensor = self.denoiser(
            sequence(latents, condition.references, pack).to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            pooled_projections=condition.pooled.to(dtype),
            timestep=timestep / 1000,
            img_ids=torch.cat(places),
            txt_ids=latents.new_zeros(condition.embeds.shape[1], 3),
            guidance=None if self.distilled_guidance is None else latents.new_full(latents.shape[:1], self.distilled_guidance),
            return_dict=False,
        )[0]
        return unpack(predicted[:, : len(places[0])], height, width).to(latents.dtype)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return shifted(self.scheduler, steps, shape[1] * shape[2] // 4, device)


class FluxNative(Native):
    pipeline_class = diffusers.FluxPipeline
    omitted = {"transformer": None, "vae": None, "image_encoder": None, "feature_extractor": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """T5's states, the padding attended to, and CLIP's pooled one."""
        embeds, pooled, _ = self.pipeline.encode_prompt(captions, device=device, max_sequence_length=self.max_sequence_length)
        return attended(embeds, pooled)


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
    steps: int = 28,
    references: int | None = None,
) -> FluxHand:
    """A FluxPipeline or FluxKontextPipeline folder or hub id. `distilled_guidance`: None = 3.5 for dev; schnell takes none, and 4 steps.

    `references`: source pictures that it is given; None = what the checkpoint takes, 1 for Kontext, else 0.
    """
    parts = ("transformer", diffusers.FluxTransformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels // 4)
    told = guidance_told(checkpoint, distilled_guidance, usual=3.5)
    native = FluxNative(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return FluxHand(checkpoint, native, guidance_scale, steps, told, references_of(checkpoint, references, REFERENCES))
