"""Sana-Sprint: Sana's parts, a denoiser that is told its guidance, and a scheduler that draws new noise at each step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import tiny
import torch
from torch import Tensor

from hand_families.family import HEIGHT, LENGTH, WIDTH, Family
from metabridge.adapters.hands import sana_sprint
from metabridge.bridge.interfaces import Condition


def make(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    with tempfile.TemporaryDirectory() as sana:
        parts = diffusers.SanaPipeline.from_pretrained(tiny.make_hand(Path(sana), seed)).components
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        told = {"guidance_embeds": True, "guidance_embeds_scale": 0.1, "qk_norm": "rms_norm_across_heads"}
        transformer = tiny.spread(diffusers.SanaTransformer2DModel.from_config({**parts["transformer"].config, **told}))
    words = {name: parts[name] if text_encoder else None for name in ("tokenizer", "text_encoder")}
    pipeline = diffusers.SanaSprintPipeline(transformer=transformer, vae=parts["vae"], scheduler=diffusers.SCMScheduler(), **words)
    pipeline.save_pretrained(folder)
    return folder


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    """Under the scale that the denoiser is told; the official pipeline knows no other."""
    generators = [torch.Generator().manual_seed(100 + k) for k in range(len(noise))]
    for row, generator in zip(noise, generators, strict=True):  # they go on from where they drew the first noise
        assert torch.equal(torch.randn(row.shape, generator=generator), row)
    return official(
        prompt_embeds=condition.embeds,
        prompt_attention_mask=condition.mask,
        latents=noise,
        generator=generators,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        intermediate_timesteps=1.3 if steps == 2 else None,
        guidance_scale=4.5,
        output_type="latent",
        use_resolution_binning=False,
        max_sequence_length=LENGTH,
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    return Condition(*official.encode_prompt(list(captions), max_sequence_length=LENGTH))


FAMILIES = {
    "sana_sprint": Family(
        make=make,
        load=sana_sprint.load,
        pipeline=diffusers.SanaSprintPipeline,
        draw=draw,
        describe=describe,
        schedulers={"scm": diffusers.SCMScheduler()},
        guidance=(1.0,),
        load_options={"max_sequence_length": LENGTH},
    )
}
