"""Stable Diffusion 1.x and 2.x, with CLIP that reads prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import tiny
from torch import Tensor

from hand_families.family import HEIGHT, WIDTH, Family, ones
from metabridge.adapters.hands import stable_diffusion
from metabridge.bridge.interfaces import Condition

LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    return official(
        prompt_embeds=condition.embeds,
        negative_prompt_embeds=None if null is None else null.embeds,
        latents=noise,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _ = official.encode_prompt(list(captions), "cpu", 1, False)
    return Condition(embeds, ones(embeds))


FAMILIES = {
    "stable_diffusion": Family(
        make=tiny.make_sd_hand,
        load=stable_diffusion.load,
        pipeline=diffusers.StableDiffusionPipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "ddim": diffusers.DDIMScheduler(**LDM, clip_sample=False, steps_offset=1),
            "pndm": diffusers.PNDMScheduler(**LDM, skip_prk_steps=True, steps_offset=1),
            "euler": diffusers.EulerDiscreteScheduler(**LDM),
            "v": diffusers.DDIMScheduler(**LDM, clip_sample=False, steps_offset=1, prediction_type="v_prediction"),
        },
    )
}
