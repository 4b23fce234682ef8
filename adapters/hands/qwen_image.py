"""Qwen-Image (arXiv 2508.02324) and -Edit: a transformer over caption and pictures in packed latents, captions read by Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.packing import pack, unpack
from metabridge.adapters.pretrained import Native, latents_of, wide
from metabridge.adapters.reference_tokens import SeeingHand, pictures_in, references_of, sequence
from metabridge.adapters.schedules import shifted
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.sampling import guide

SAMPLE_SIZE = 128  # latents along a side of the official pipeline's default picture
REFERENCES = {"QwenImageEditPipeline": 1, "QwenImageEditPlusPipeline": 3}  # Qwen-Image-Edit, -2509 and later: their model cards


class QwenImageHand(SeeingHand):
    latents_mean: Tensor  # [C, 1, 1]
    latents_std: Tensor

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int, references: int = 0) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.references = references
        self.width: int = self.denoiser.config.joint_attention_dim
        self.factor = 2 ** len(self.vae.config.temperal_downsample)
        self.default_size = (SAMPLE_SIZE * self.factor,) * 2
        for name in ("latents_mean", "latents_std"):
            self.register_buffer(name, torch.tensor(self.vae.config[name]).view(-1, 1, 1), persistent=False)

    def heard(self, name: str) -> bool:
        """The last block's caption stream ends there."""
        last = f"transformer_blocks.{len(self.denoiser.transformer_blocks) - 1}."
        return not name.startswith((f"{last}txt_mlp.", f"{last}attn.to_add_out."))

    @torch.no_grad()
    def encode(self, pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """The autoencoder is one of videos: a picture is a video of one frame."""
        latents = wide(latents_of(self.vae, pixels.to(self.vae.dtype).unsqueeze(2), seeds)).squeeze(2)
        return (latents - self.latents_mean) / self.latents_std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        frames = (latents * self.latents_std + self.latents_mean).to(self.vae.dtype).unsqueeze(2)
        pixels: Tensor = self.vae.decode(frames).sample.squeeze(2)
        return wide(pixels)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.denoiser.config.in_channels // 4, *self.latent_size(height, width, 2 * self.factor)

    def predict_alike(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        (height, width), dtype = latents.shape[-2:], self.denoiser.dtype
        # on all axes the caption stands after the picture, which is centred on 0
        self.refuse_longer(condition, len(self.denoiser.pos_embed.pos_freqs) - max(height, width) // 4)
        predicted: Tensor = self.denoiser(
            sequence(latents, condition.references, pack).to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            encoder_hidden_states_mask=condition.mask.bool(),
            timestep=timestep / 1000,
            img_shapes=[[(1, height // 2, width // 2)] * pictures_in(condition)] * len(latents),
            return_dict=False,
        )[0]
        return unpack(predicted[:, : height * width // 4], height, width).to(latents.dtype)

    def guide(self, predictions: Sequence[Tensor], guidance: Sequence[float]) -> Tensor:
        """Guided, then each token of the picture brought back to the length that it has under the full condition alone."""
        guided, full = pack(guide(predictions, guidance)), pack(predictions[-1])
        kept = guided * (full.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
        return unpack(kept, *predictions[-1].shape[-2:])

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return shifted(self.scheduler, steps, shape[1] * shape[2] // 4, device)


class QwenImageNative(Native):
    """Of a checkpoint for editing too it is text to image: the templates of the official pipelines for editing are around a picture,
    which a caption comes without. They read the source picture beside the words; in a bridge the brain does."""

    pipeline_class = diffusers.QwenImagePipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """In the official template, whose own first tokens are dropped; the empty caption too."""
        embeds, mask = self.pipeline.encode_prompt(captions, device, max_sequence_length=self.max_sequence_length)
        if mask is None:  # all of one length
            mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=device)
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 512,
    guidance_scale: float = 4.0,
    steps: int = 50,
    references: int | None = None,
) -> QwenImageHand:
    """A QwenImagePipeline, QwenImageEditPipeline or QwenImageEditPlusPipeline folder or hub id.

    `references`: source pictures that it is given at most; None = as many as its makers advise, 1 for Edit, 3 for EditPlus, else 0.
    Each takes as many tokens as the picture that is drawn.
    """
    parts = ("transformer", diffusers.QwenImageTransformer2DModel), ("vae", diffusers.AutoencoderKLQwenImage)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    config = checkpoint.denoiser.config
    if config.use_additional_t_cond or config.use_layer3d_rope:
        raise UserError(f"{repo}: draws a picture as layers, which is not offered; give a checkpoint for text to image")
    refuse_other_channels(repo, checkpoint, config.in_channels // 4)
    native = QwenImageNative(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return QwenImageHand(checkpoint, native, guidance_scale, steps, references_of(checkpoint, references, REFERENCES))
