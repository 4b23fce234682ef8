"""Sana, in latents of an AutoencoderDC, with a Gemma2 that reads prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import tiny
from torch import Tensor

from hand_families.family import HEIGHT, LENGTH, WIDTH, Family
from metabridge.adapters.hands import sana
from metabridge.bridge.interfaces import Condition

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}  # the default on the hub


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    return official(
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask,
        negative_prompt=None,
        negative_prompt_embeds=None if null is None else null.embeds,
        negative_prompt_attention_mask=None if null is None else null.mask,
        latents=noise,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
        use_resolution_binning=False,
        complex_human_instruction=None,
        max_sequence_length=LENGTH,
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, mask, _, _ = official.encode_prompt(list(captions), do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return Condition(embeds, mask)


FAMILIES = {
    "sana": Family(
        make=tiny.make_hand,
        load=sana.load,
        pipeline=diffusers.SanaPipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            "dpm": diffusers.DPMSolverMultistepScheduler(**FLOW),
        },
        load_options={"max_sequence_length": LENGTH},
    )
}
