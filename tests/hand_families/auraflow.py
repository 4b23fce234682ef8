"""AuraFlow, with a UMT5 that reads prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import hand_parts
import tiny
import torch
import transformers
from torch import Tensor

from hand_families.family import HEIGHT, LENGTH, WIDTH, Family, ones
from metabridge.adapters.hands import auraflow
from metabridge.bridge.interfaces import Condition


def make(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    """64x64 pixels, latents 4 x 16 x 16, conditioning width 24; positions for 96x96."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            num_mmdit_layers=2,
            num_single_dit_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            caption_projection_dim=16,
            pos_embed_max_size=144,
        )
        vae = hand_parts.kl_vae()
        encoder = transformers.UMT5EncoderModel(transformers.UMT5Config(**hand_parts.t5_options(24)))
        for model in (transformer, vae, encoder):
            tiny.spread(model)
    encoders = {"tokenizer": hand_parts.t5_tokenizer(), "text_encoder": encoder}
    kept = encoders if text_encoder else dict.fromkeys(encoders)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73)
    diffusers.AuraFlowPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **kept).save_pretrained(folder)
    return folder


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    return official(
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask,
        negative_prompt_embeds=None if null is None else null.embeds,
        negative_prompt_attention_mask=None if null is None else null.mask,
        latents=noise,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _, _, _ = official.encode_prompt(list(captions), do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return Condition(embeds, ones(embeds))


FAMILIES = {
    "auraflow": Family(
        make=make,
        load=auraflow.load,
        pipeline=diffusers.AuraFlowPipeline,
        draw=draw,
        describe=describe,
        schedulers={"euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73)},
        multiple=8,
        default_size=(96, 96),
        load_options={"max_sequence_length": LENGTH},
    )
}
