"""PixArt-alpha at 1024 pixels, which is told the picture's size, and PixArt-Sigma, which is not; T5 reads prompts."""

from __future__ import annotations

import json
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

from hand_families.family import HEIGHT, LENGTH, WIDTH, Family
from metabridge.adapters.hands import pixart
from metabridge.bridge.interfaces import Condition

LINEAR = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


def make(folder: Path, seed: int = 0, text_encoder: bool = True, *, pipeline: Any, told_size: bool) -> Path:
    """64x64 pixels, latents 4 x 16 x 16, conditioning width 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.PixArtTransformer2DModel(
            num_attention_heads=3,
            attention_head_dim=8,
            num_layers=2,
            cross_attention_dim=24,
            sample_size=128 if told_size else 16,
            caption_channels=16,
            use_additional_conditions=None if told_size else False,
        )
        vae = hand_parts.kl_vae()
        encoder = transformers.T5EncoderModel(hand_parts.t5_config(16))
        for model in (transformer, vae, encoder):
            tiny.spread(model)
    encoders = {"tokenizer": hand_parts.t5_tokenizer(), "text_encoder": encoder}
    kept = encoders if text_encoder else dict.fromkeys(encoders)
    pipeline(transformer=transformer, vae=vae, scheduler=diffusers.DPMSolverMultistepScheduler(**LINEAR), **kept).save_pretrained(folder)
    if told_size:  # its folders on the hub still give the class it was cut out of
        for name in ("model_index.json", "transformer/config.json"):
            (folder / name).write_text((folder / name).read_text().replace('"PixArtTransformer2DModel"', '"Transformer2DModel"'))
        assert json.loads((folder / "model_index.json").read_text())["transformer"][1] == "Transformer2DModel"
    return folder


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
        clean_caption=False,
        max_sequence_length=LENGTH,
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, mask, _, _ = official.encode_prompt(list(captions), do_classifier_free_guidance=False, max_sequence_length=LENGTH)
    return Condition(embeds, mask)


def family(pipeline: Any, told_size: bool) -> Family:
    return Family(
        make=partial(make, pipeline=pipeline, told_size=told_size),
        load=pixart.load,
        pipeline=pipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "dpm": diffusers.DPMSolverMultistepScheduler(**LINEAR),
            "euler": diffusers.EulerDiscreteScheduler(**LINEAR),
            "ddim": diffusers.DDIMScheduler(**LINEAR),
        },
        multiple=8,
        default_size=(512, 512) if told_size else (64, 64),
        load_options={"max_sequence_length": LENGTH},
    )


FAMILIES = {
    "pixart": family(diffusers.PixArtSigmaPipeline, told_size=False),
    "pixart_alpha": family(diffusers.PixArtAlphaPipeline, told_size=True),
}
