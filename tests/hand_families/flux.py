"""FLUX.1, distilled for guidance (dev, Kontext) and not (schnell), in packed latents of a KL autoencoder; CLIP and T5 read prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import hand_parts
import tiny
import torch
import transformers
from PIL import Image
from torch import Tensor

from hand_families.family import DYNAMIC, EDITED, HEIGHT, LENGTH, WIDTH, Family, ones
from metabridge.adapters.hands import flux
from metabridge.adapters.packing import pack, unpack
from metabridge.bridge.interfaces import Condition

ENCODERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def make(
    folder: Path,
    seed: int = 0,
    text_encoder: bool = True,
    guidance_embeds: bool = True,
    pipeline: Any = diffusers.FluxPipeline,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=24,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        )
        vae = hand_parts.kl_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
        clip = transformers.CLIPTextModel(hand_parts.clip_config(24, LENGTH))
        t5 = transformers.T5EncoderModel(hand_parts.t5_config(16))
        for model in (transformer, vae, clip, t5):
            tiny.spread(model)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**(DYNAMIC if guidance_embeds else {"shift": 1.0}))
    parts = (clip, hand_parts.clip_tokenizer(LENGTH), t5, hand_parts.t5_tokenizer())
    encoders = dict(zip(ENCODERS, parts if text_encoder else (None,) * 4, strict=True))
    pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **encoders).save_pretrained(folder)
    return folder


def draw(
    official: Any,
    condition: Condition,
    null: Condition | None,
    noise: Tensor,
    steps: int,
    scale: float,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    **options: Any,
) -> Tensor:
    height, width = size
    tokens = official(
        prompt_embeds=condition.embeds,
        pooled_prompt_embeds=condition.pooled,
        negative_prompt_embeds=None if null is None else null.embeds,
        negative_pooled_prompt_embeds=None if null is None else null.pooled,
        latents=pack(noise),
        height=height,
        width=width,
        num_inference_steps=steps,
        true_cfg_scale=scale,
        output_type="latent",
        **options,
    ).images
    return unpack(tokens, *noise.shape[-2:])


def draw_kontext(
    official: Any,
    condition: Condition,
    null: Condition | None,
    noise: Tensor,
    steps: int,
    scale: float,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    image: Image.Image | None = None,
) -> Tensor:
    """At the size that is asked for, and the source picture at its own."""
    told = {"image": image, "max_area": size[0] * size[1], "_auto_resize": False}
    return draw(official, condition, null, noise, steps, scale, size, **told)


def edit(
    official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float, pictures: list[Image.Image]
) -> Tensor:
    (picture,) = pictures
    return draw_kontext(official, condition, null, noise, steps, scale, EDITED, picture)


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, pooled, _ = official.encode_prompt(list(captions), max_sequence_length=LENGTH)
    return Condition(embeds, ones(embeds), pooled)


COMMON = {
    "load": flux.load,
    "pipeline": diffusers.FluxPipeline,
    "draw": draw,
    "describe": describe,
    "multiple": 8,
    "default_size": (512, 512),
    "load_options": {"max_sequence_length": LENGTH},
}
FAMILIES = {
    "flux": Family(make=make, schedulers={"dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)}, **COMMON),
    "flux_schnell": Family(
        make=partial(make, guidance_embeds=False), schedulers={"euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)}, **COMMON
    ),
    "flux_kontext": Family(
        make=partial(make, pipeline=diffusers.FluxKontextPipeline),
        schedulers={"dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)},
        **COMMON | {"pipeline": diffusers.FluxKontextPipeline, "draw": draw_kontext},
        references=1,
        edit=edit,
    ),
}
