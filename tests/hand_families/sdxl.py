"""Stable Diffusion XL, with two CLIPs that read prompts; the base's empty prompt is zeros, that of some later checkpoints is not."""

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

from hand_families.family import HEIGHT, LENGTH, WIDTH, Family, ones
from metabridge.adapters.hands import sdxl
from metabridge.bridge.interfaces import Condition

POOLED = 24
LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def make(folder: Path, seed: int = 0, text_encoder: bool = True, *, zeros: bool) -> Path:
    """64x64 pixels, latents 4 x 16 x 16, conditioning width 16 + 24."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16 + POOLED,
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=POOLED + sdxl.SIZES * 8,
        )
        vae = hand_parts.kl_vae()
        encoder = transformers.CLIPTextModel(hand_parts.clip_config(16, LENGTH))
        encoder_2 = transformers.CLIPTextModelWithProjection(hand_parts.clip_config(POOLED, LENGTH, projection_dim=POOLED))
        for model in (unet, vae, encoder, encoder_2):
            tiny.spread(model)
    encoders = {
        "tokenizer": hand_parts.clip_tokenizer(LENGTH),
        "tokenizer_2": hand_parts.clip_tokenizer(LENGTH),
        "text_encoder": encoder,
        "text_encoder_2": encoder_2,
    }
    kept = encoders if text_encoder else dict.fromkeys(encoders)
    scheduler = diffusers.EulerDiscreteScheduler(**LDM, timestep_spacing="leading", steps_offset=1)
    diffusers.StableDiffusionXLPipeline(
        unet=unet, vae=vae, scheduler=scheduler, **kept, force_zeros_for_empty_prompt=zeros
    ).save_pretrained(folder)
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
    embeds, null_embeds, pooled, null_pooled = official.encode_prompt(list(captions), device="cpu", do_classifier_free_guidance=True)
    return Condition(null_embeds, ones(embeds), null_pooled) if list(captions) == [""] else Condition(embeds, ones(embeds), pooled)


def family(zeros: bool) -> Family:
    return Family(
        make=partial(make, zeros=zeros),
        load=sdxl.load,
        pipeline=diffusers.StableDiffusionXLPipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.EulerDiscreteScheduler(**LDM, timestep_spacing="leading", steps_offset=1),
            "dpm": diffusers.DPMSolverMultistepScheduler(**LDM, use_karras_sigmas=True),
            "v": diffusers.DDIMScheduler(**LDM, clip_sample=False, prediction_type="v_prediction", timestep_spacing="trailing"),
        },
    )


FAMILIES = {"sdxl": family(zeros=True), "sdxl_told_empty": family(zeros=False)}
