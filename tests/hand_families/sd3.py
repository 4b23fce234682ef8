"""Stable Diffusion 3 with its three text encoders, and 3.5 with its second attention, T5 left out."""

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
from torch import Tensor

from hand_families.family import DYNAMIC, HEIGHT, LENGTH, WIDTH, Family, ones
from metabridge.adapters.hands import sd3
from metabridge.bridge.interfaces import Condition


def make(folder: Path, seed: int = 0, text_encoder: bool = True, *, later: bool) -> Path:
    """64x64 pixels, latents 4 x 16 x 16, conditioning width 32, pooled 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.SD3Transformer2DModel(
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=16,
            pos_embed_max_size=12,
            **({"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if later else {}),
        )
        vae = hand_parts.kl_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
        encoders = {
            f"text_encoder{suffix}": transformers.CLIPTextModelWithProjection(hand_parts.clip_config(8, LENGTH, projection_dim=8))
            for suffix in ("", "_2")
        }
        encoders["text_encoder_3"] = None if later else transformers.T5EncoderModel(hand_parts.t5_config(32))
        for model in (transformer, vae, *encoders.values()):
            if model is not None:
                tiny.spread(model)
    tokenizers = {f"tokenizer{suffix}": hand_parts.clip_tokenizer(LENGTH) for suffix in ("", "_2")}
    words = encoders | tokenizers | {"tokenizer_3": None if later else hand_parts.t5_tokenizer()}
    kept = words if text_encoder else dict.fromkeys(words)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    diffusers.StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **kept).save_pretrained(folder)
    return folder


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    return official(
        prompt_embeds=condition.embeds,
        pooled_prompt_embeds=condition.pooled,
        negative_prompt_embeds=None if null is None else null.embeds,
        negative_pooled_prompt_embeds=None if null is None else null.pooled,
        latents=noise,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale,
        output_type="latent",
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _, pooled, _ = official.encode_prompt(list(captions), None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return Condition(embeds, ones(embeds), pooled)


def family(later: bool) -> Family:
    return Family(
        make=partial(make, later=later),
        load=sd3.load,
        pipeline=diffusers.StableDiffusion3Pipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        },
        multiple=8,
        load_options={"max_sequence_length": LENGTH},
        open=partial(diffusers.StableDiffusion3Pipeline.from_pretrained, text_encoder_3=None, tokenizer_3=None) if later else None,
    )


FAMILIES = {"sd3": family(later=False), "sd35": family(later=True)}
