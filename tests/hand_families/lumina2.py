"""Lumina-Image 2.0, in latents of a KL autoencoder, with a Gemma2 that reads prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import hand_parts
import tiny
import torch
from torch import Tensor

from hand_families.family import DYNAMIC, HEIGHT, WIDTH, Family
from metabridge.adapters.hands import lumina2
from metabridge.bridge.interfaces import Condition

ROOM = 200  # tokens; the official system prompt is some 140 of them to the tiny tokenizer


def make(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.Lumina2Transformer2DModel(
            sample_size=16,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(300, 8, 16),
            cap_feat_dim=16,
        )
        vae = hand_parts.kl_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
        words, encoder = tiny.gemma()
        for model in (transformer, vae, encoder):
            tiny.spread(model)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
    diffusers.Lumina2Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **encoders).save_pretrained(folder)
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
    embeds, mask, null, null_mask = official.encode_prompt(list(captions), max_sequence_length=ROOM)
    return Condition(embeds, mask) if any(captions) else Condition(null, null_mask)


FAMILIES = {
    "lumina2": Family(
        make=make,
        load=lumina2.load,
        pipeline=diffusers.Lumina2Pipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
            "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        },
        multiple=8,
        load_options={"max_sequence_length": ROOM},
    )
}
