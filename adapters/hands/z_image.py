"""Z-Image (arXiv 2511.22699): one transformer over picture and caption, flow matching with time counted from the noise."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, kl_factor
from metabridge.adapters.schedules import shifted
from metabridge.bridge.interfaces import Condition

PATCH = 2  # latents to a token, along a side: what the denoiser is called with by default, and the official pipeline's
ROUND = 32  # the denoiser pads captions to a multiple of it


class ZImageHand(PretrainedHand):
    default_size = (1024, 1024)

    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.width: int = self.denoiser.config.cap_feat_dim
        self.factor = kl_factor(self.vae)
        # on the first axis captions stand from 1 on, the picture one place after them
        self.longest = (self.denoiser.config.axes_lens[0] - 2) // ROUND * ROUND

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.in_channels, *self.latent_size(height, width, self.factor * PATCH, config.axes_lens[1:])

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        self.refuse_longer(condition, self.longest)
        dtype = self.denoiser.dtype
        lengths = condition.mask.sum(dim=1).tolist()  # the denoiser takes captions of their own lengths, so the host must know them
        predicted: list[Tensor] = self.denoiser(
            list(latents.to(dtype).unsqueeze(2)),
            (1000 - timestep) / 1000,
            [embeds[:length] for embeds, length in zip(condition.embeds.to(dtype), lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(predicted).squeeze(2).to(latents.dtype)

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return shifted(self.scheduler, steps, shape[1] * shape[2] // PATCH**2, device)


class ZImageNative(Native):
    pipeline_class = diffusers.ZImagePipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Written into the chat template of the text encoder, the empty caption too."""
        rows, _ = self.pipeline.encode_prompt(captions, device, False, max_sequence_length=self.max_sequence_length)
        return Condition.cat([Condition(row.float()[None], row.new_ones(1, len(row), dtype=torch.long)) for row in rows])


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 512,
    guidance_scale: float = 6.0,
    steps: int = 50,
) -> ZImageHand:
    """A ZImagePipeline folder or hub id. `guidance_scale`: 1 = none, one more than the official pipeline's; Turbo takes 1 and 9 steps."""
    parts = ("transformer", diffusers.ZImageTransformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = ZImageNative(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return ZImageHand(checkpoint, native, guidance_scale, steps)
