"""Lumina-Image 2.0 (arXiv 2503.21758): one transformer over caption and picture, flow matching with time counted from the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, load_checkpoint, refuse_other_channels
from metabridge.adapters.pretrained import Native, PretrainedHand, kl_factor
from metabridge.adapters.schedules import shifted
from metabridge.bridge.interfaces import Condition
from metabridge.bridge.sampling import guide


class Lumina2Hand(PretrainedHand):
    def __init__(self, checkpoint: Checkpoint, native: Native | None, guidance_scale: float, steps: int) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.width: int = self.denoiser.config.cap_feat_dim
        self.factor = kl_factor(self.vae)
        self.default_size = (self.denoiser.config.sample_size * self.factor,) * 2

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.in_channels, *self.latent_size(height, width, self.factor * config.patch_size, config.axes_lens[1:])

    def predict(self, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        # on the first axis the picture stands one place after the caption
        self.refuse_longer(condition, self.denoiser.config.axes_lens[0] - 1)
        dtype = self.denoiser.dtype
        predicted: Tensor = self.denoiser(
            latents.to(dtype),
            timestep=1 - timestep / 1000,
            encoder_hidden_states=condition.embeds.to(dtype),
            encoder_attention_mask=condition.mask.bool(),
            return_dict=False,
        )[0]
        return -predicted.to(latents.dtype)

    def guide(self, predictions: Sequence[Tensor], guidance: Sequence[float]) -> Tensor:
        """Guided, then each row of the picture brought back to the length that it has under the full condition alone."""
        guided = guide(predictions, guidance)
        ratio: Tensor = predictions[-1].norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        return guided * ratio

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        # the official pipeline reads the channels where it means the tokens, so that mu is the same at every size
        return shifted(self.scheduler, steps, shape[0], device)


class Lumina2Native(Native):
    pipeline_class = diffusers.Lumina2Pipeline
    omitted = {"transformer": None, "vae": None}  # noqa: RUF012

    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """The official system prompt stands before every caption, but not before the empty one."""
        silent = torch.tensor([not caption for caption in captions]).to(device, non_blocking=True)
        embeds, mask, null, null_mask = self.pipeline.encode_prompt(
            captions, not all(captions), device=device, max_sequence_length=self.max_sequence_length
        )
        if null is not None:
            embeds, mask = torch.where(silent[:, None, None], null, embeds), torch.where(silent[:, None], null_mask, mask)
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 256,
    guidance_scale: float = 4.0,
    steps: int = 30,
) -> Lumina2Hand:
    """A Lumina2Pipeline folder or hub id."""
    parts = ("transformer", diffusers.Lumina2Transformer2DModel), ("vae", diffusers.AutoencoderKL)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    native = Lumina2Native(checkpoint, max_sequence_length) if checkpoint.has_text_encoder else None
    return Lumina2Hand(checkpoint, native, guidance_scale, steps)
