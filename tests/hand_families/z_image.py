"""Z-Image, in latents of a KL autoencoder, with a Qwen3 that reads prompts in its chat template."""

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

from hand_families.family import DYNAMIC, HEIGHT, WIDTH, Family
from metabridge.adapters.hands import z_image
from metabridge.bridge.interfaces import Condition

ROOM = 80  # tokens


def make(folder: Path, seed: int = 0, text_encoder: bool = True) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 8, 16],
        )
        vae = hand_parts.kl_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)
        words = tiny.qwen_tokenizer()
        words.chat_template = tiny.CHAT_TEMPLATE
        encoder = transformers.Qwen3Model(transformers.Qwen3Config(**tiny.TEXT, head_dim=8, vocab_size=len(words)))
        for model in (transformer, vae, encoder):
            tiny.spread(model)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
    diffusers.ZImagePipeline(transformer=transformer, vae=vae, scheduler=scheduler, **encoders).save_pretrained(folder)
    return folder


def rows(condition: Condition) -> list[Tensor]:
    """Real tokens alone, as the official pipeline takes them."""
    return [embeds[mask.bool()] for embeds, mask in zip(condition.embeds, condition.mask, strict=True)]


def draw(official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float) -> Tensor:
    return official(
        prompt_embeds=rows(condition),
        negative_prompt_embeds=None if null is None else rows(null),
        latents=noise,
        height=HEIGHT,
        width=WIDTH,
        num_inference_steps=steps,
        guidance_scale=scale - 1,  # steps away from the prompted prediction, where the others step away from the null
        output_type="latent",
    ).images


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _ = official.encode_prompt(list(captions), do_classifier_free_guidance=False, max_sequence_length=ROOM)
    longest = max(len(row) for row in embeds)
    padded = torch.nn.utils.rnn.pad_sequence(embeds, batch_first=True)
    return Condition(padded, torch.stack([(torch.arange(longest) < len(row)).long() for row in embeds]))


FAMILIES = {
    "z_image": Family(
        make=make,
        load=z_image.load,
        pipeline=diffusers.ZImagePipeline,
        draw=draw,
        describe=describe,
        schedulers={
            "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        },
        multiple=8,
        default_size=(1024, 1024),
        load_options={"max_sequence_length": ROOM},
    )
}
