"""Sana-Sprint (arXiv 2503.09641): a Sana distilled to draw in one to four steps, told its guidance as a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from metabridge.adapters.checkpoint import Checkpoint, guidance_told, load_checkpoint, refuse_other_channels
from metabridge.adapters.hands.sana import SanaHand, SanaNative
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Condition

FIRST_ANGLE, MIDDLE_ANGLE = 1.5708, 1.3  # of the official pipeline: where drawing starts, and where the second of two steps does


class SprintSteps:
    """The official scheduler's steps, said in flow matching's terms.

    It walks on a circle: z = cos(a) x_0 + sin(a) noise. With sigma = sin(a) / (sin(a) + cos(a)) that is flow matching's
    x = (1 - sigma) x_0 + sigma noise up to a length, and the denoiser, which the official pipeline turns into the
    circle's terms and back, predicts noise - x_0. A step goes to x_0 at once, and from there to the next sigma with new noise.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        angles = torch.tensor([FIRST_ANGLE, MIDDLE_ANGLE, 0.0]) if steps == 2 else torch.linspace(FIRST_ANGLE, 0.0, steps + 1)
        self.sigmas = (angles.sin() / (angles.sin() + angles.cos())).to(device)
        self.timesteps = 1000 * self.sigmas[:-1]
        self.taken = 0

    def step(
        self, velocity: Tensor, timestep: Tensor, sample: Tensor, generator: Sequence[torch.Generator], return_dict: bool
    ) -> tuple[Tensor]:
        now, after = self.sigmas[self.taken], self.sigmas[self.taken + 1]
        self.taken += 1
        noise = randn_tensor(sample.shape, generator=list(generator), device=sample.device, dtype=sample.dtype)
        return ((1 - after) * (sample - now * velocity) + after * noise,)


class SanaSprintHand(SanaHand):
    def __init__(
        self, checkpoint: Checkpoint, native: SanaNative | None, guidance_scale: float, steps: int, distilled_guidance: float | None
    ) -> None:
        super().__init__(checkpoint, native, guidance_scale, steps)
        self.distilled_guidance = distilled_guidance
        self.time_scale = 1 / 1000  # the denoiser reads sigma itself

    def schedule(self, steps: int, shape: tuple[int, int, int], device: torch.device) -> Any:
        return SprintSteps(steps, device)


class SanaSprintNative(SanaNative):
    pipeline_class = diffusers.SanaSprintPipeline

    def _encode(self, captions: list[str], device: torch.device, instruction: list[str] | None) -> Condition:
        embeds, mask = self.pipeline.encode_prompt(
            captions, device=device, max_sequence_length=self.max_sequence_length, complex_human_instruction=instruction
        )
        return Condition(embeds.float(), mask)


def load(
    repo: str,
    revision: str = "main",
    dtype: str = "float32",
    train: str = "none",
    lora_rank: int | None = None,
    weights: str = "pretrained",
    max_sequence_length: int = 300,
    instruction: bool = False,
    distilled_guidance: float | None = None,
    guidance_scale: float = 1.0,
    steps: int = 2,
) -> SanaSprintHand:
    """A SanaSprintPipeline folder or hub id. `distilled_guidance`: the scale that the denoiser is told, 4.5 where none is given."""
    parts = ("transformer", diffusers.SanaTransformer2DModel), ("vae", diffusers.AutoencoderDC)
    checkpoint = load_checkpoint(repo, revision, dtype, train, lora_rank, weights, *parts)
    refuse_other_channels(repo, checkpoint, checkpoint.denoiser.config.in_channels)
    if not isinstance(checkpoint.scheduler, diffusers.SCMScheduler):
        scheduler = type(checkpoint.scheduler).__name__
        raise UserError(f"{repo}: a {checkpoint.pipeline} with {scheduler}; hand sana_sprint is for SCMScheduler, try hand sana")
    told = guidance_told(checkpoint, distilled_guidance, usual=4.5)
    native = SanaSprintNative(checkpoint, max_sequence_length, instruction) if checkpoint.has_text_encoder else None
    return SanaSprintHand(checkpoint, native, guidance_scale, steps, told)
