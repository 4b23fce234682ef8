"""Qwen-Image and those for editing, in packed latents of a video autoencoder, with a Qwen2.5-VL that reads prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny
import torch
import transformers
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from PIL import Image
from torch import Tensor

from hand_families.family import DYNAMIC, EDITED, HEIGHT, WIDTH, Family, ones
from metabridge.adapters.hands import qwen_image
from metabridge.adapters.packing import pack, unpack
from metabridge.bridge.interfaces import Condition

ROOM = 240  # tokens; the official template is some 200 of them to the tiny tokenizer


def make(folder: Path, seed: int = 0, text_encoder: bool = True, zero_cond_t: bool = False) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            zero_cond_t=zero_cond_t,
        )
        vae = diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 2.0, 0.7, 1.0],
        )
        words = tiny.qwen_tokenizer()
        reader = tiny.make_brain(folder / "reader", seed)  # a Qwen2.5-VL
        encoder = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(reader)
        for model in (transformer, vae):
            tiny.spread(model)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
    diffusers.QwenImagePipeline(transformer=transformer, vae=vae, scheduler=scheduler, **encoders).save_pretrained(folder)
    return folder


def make_editor(folder: Path, seed: int = 0, text_encoder: bool = True, pipeline: str = "", zero_cond_t: bool = False) -> Path:
    """With a processor named in its index, as the folders for editing have one."""
    index = make(folder, seed, text_encoder, zero_cond_t) / "model_index.json"
    processor = ["transformers", "Qwen2VLProcessor"] if text_encoder else [None, None]
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": pipeline, "processor": processor}))
    return folder


def open_editor(folder: Path, pipeline: Any) -> Any:
    """Without the processor, which asks for torchvision."""
    return pipeline.from_pretrained(folder, processor=None)


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
        prompt_embeds_mask=condition.mask,
        negative_prompt_embeds=None if null is None else null.embeds,
        negative_prompt_embeds_mask=None if null is None else null.mask,
        latents=pack(noise),
        height=height,
        width=width,
        num_inference_steps=steps,
        true_cfg_scale=scale,
        output_type="latent",
        **options,
    ).images
    return unpack(tokens, *noise.shape[-2:])


def edit(
    official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float, pictures: list[Image.Image]
) -> Tensor:
    """The official pipelines bring a source picture to an area of 1024 x 1024; here to the one that is drawn."""
    height, width = EDITED
    plus = "Plus" in type(official).__name__
    module = pipeline_qwenimage_edit_plus if plus else pipeline_qwenimage_edit
    sized = module.calculate_dimensions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "calculate_dimensions", lambda _, ratio: sized(height * width, ratio))
        return draw(official, condition, null, noise, steps, scale, EDITED, image=pictures if plus else pictures[0])


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, mask = official.encode_prompt(list(captions), max_sequence_length=ROOM)
    return Condition(embeds, ones(embeds) if mask is None else mask)


def statistics(official: Any) -> tuple[Tensor, Tensor]:
    config = official.vae.config
    return torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1), torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)


def encode(official: Any, pixels: Tensor) -> Tensor:
    mean, std = statistics(official)
    return ((official.vae.encode(pixels[:, :, None]).latent_dist.mean - mean) / std)[:, :, 0]


def decode(official: Any, latents: Tensor) -> Tensor:
    mean, std = statistics(official)
    return official.vae.decode(latents[:, :, None] * std + mean).sample[:, :, 0]


COMMON = {
    "load": qwen_image.load,
    "draw": draw,
    "describe": describe,
    "encode": encode,
    "decode": decode,
    "multiple": 8,
    "default_size": (512, 512),
    "load_options": {"max_sequence_length": ROOM},
}
EDITOR = {
    "schedulers": {"dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)},
    "open": diffusers.QwenImagePipeline.from_pretrained,  # those for editing draw nothing without a picture
    "edit": edit,
}
FAMILIES = {
    "qwen_image": Family(
        make=make,
        pipeline=diffusers.QwenImagePipeline,
        schedulers={
            "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
            "terminal": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC | {"max_image_seq_len": 8192, "shift_terminal": 0.02}),
        },
        **COMMON,
    ),
    "qwen_image_edit": Family(
        make=partial(make_editor, pipeline="QwenImageEditPipeline"),
        pipeline=diffusers.QwenImageEditPipeline,
        editor=partial(open_editor, pipeline=diffusers.QwenImageEditPipeline),
        references=1,
        **COMMON,
        **EDITOR,
    ),
    "qwen_image_edit_plus": Family(
        make=partial(make_editor, pipeline="QwenImageEditPlusPipeline", zero_cond_t=True),  # as Qwen-Image-Edit-2511 has it
        pipeline=diffusers.QwenImageEditPlusPipeline,
        editor=partial(open_editor, pipeline=diffusers.QwenImageEditPlusPipeline),
        references=3,
        several=True,
        **COMMON,
        **EDITOR,
    ),
}
