"""Chroma, with a T5 that reads prompts."""

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

from hand_families.family import DYNAMIC, HEIGHT, LENGTH, WIDTH, Family
from metabridge.adapters.hands import chroma
from metabridge.adapters.packing import pack, unpack
from metabridge.bridge.interfaces import Condition


def make(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    """64x64 pixels, latents 4 x 16 x 16, conditioning width 24."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.ChromaTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=24,
            axes_dims_rope=(2, 2, 4),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        )
        vae = hand_parts.kl_vae(shift_factor=0.1)
        encoder = transformers.T5EncoderModel(hand_parts.t5_config(24))
        for model in (transformer, vae, encoder):
            tiny.spread(model)
    encoders = {"tokenizer": hand_parts.t5_tokenizer(), "text_encoder": encoder}
    kept = encoders if text_encoder else dict.fromkeys(encoders)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    diffusers.ChromaPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **kept).save_pretrained(folder)
    return folder


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    null = null or condition
    tokens = official(
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask.bool(),
        negative_prompt_embeds=null.embeds,
        negative_prompt_attention_mask=null.mask.bool(),
        latents=pack(noise),
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
    ).images
    return unpack(tokens, *noise.shape[-2:])


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _, mask, _, _, _ = official.encode_prompt(list(captions), do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return Condition(embeds, mask)


FAMILIES = {
    "chroma": Family(
        make=make,
        load=chroma.load,
        pipeline=diffusers.ChromaPipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0),
            "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
            "beta": diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True),
        },
        multiple=8,
        default_size=(512, 512),
        load_options={"max_sequence_length": LENGTH},
    )
}
