"""FLUX.2, dev with a Mistral3 that reads prompts, klein with a Qwen3: of both three layers deep down are taken, so both are deep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import tiny
import torch
import transformers
from PIL import Image
from torch import Tensor

from hand_families.family import DYNAMIC, EDITED, HEIGHT, WIDTH, Family, ones
from metabridge.adapters.hands import flux2
from metabridge.adapters.processors import image_only, processor_class_of
from metabridge.bridge.interfaces import Condition

ROOM = 220  # tokens; the official system message is some 150 of them to the tiny tokenizer
TEXT = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 512,
}
IMAGE_TOKENS = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def mistral() -> tuple[Any, Any]:
    words = tiny.tokenizer([*tiny.QWEN_TOKENS, *IMAGE_TOKENS], "left", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**TEXT, num_hidden_layers=30, vocab_size=len(words)),
        vision_config=transformers.PixtralVisionConfig(**vision, image_size=28, patch_size=14),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
    )
    pictures = transformers.PixtralImageProcessorPil(patch_size=14, size={"longest_edge": 28})
    processor = image_only(processor_class_of(config))(
        image_processor=pictures, tokenizer=words, patch_size=14, spatial_merge_size=2, chat_template=tiny.CHAT_TEMPLATE
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor


def open_dev(folder: Path) -> Any:
    """The official pipeline with its processor put in by hand: left to itself it asks for torchvision."""
    official = diffusers.Flux2Pipeline.from_pretrained(folder, tokenizer=None)
    processor_class = image_only(processor_class_of(official.text_encoder.config))
    official.register_modules(tokenizer=processor_class.from_pretrained(folder, subfolder="tokenizer", backend="pil"))
    return official


def qwen() -> tuple[Any, Any]:
    words = tiny.qwen_tokenizer()
    words.chat_template = tiny.CHAT_TEMPLATE
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**TEXT, num_hidden_layers=27, vocab_size=len(words))), words


def make(
    folder: Path,
    seed: int = 0,
    text_encoder: bool = True,
    guidance_embeds: bool = True,
    pipeline: Any = diffusers.Flux2Pipeline,
    reader: Callable[[], tuple[Any, Any]] = mistral,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = diffusers.Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        )
        vae = diffusers.AutoencoderKLFlux2(
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
        )
        encoder, words = reader()
        for model in (transformer, vae, encoder):
            tiny.spread(model)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC)
    encoders = {"tokenizer": words, "text_encoder": encoder} if text_encoder else {"tokenizer": None, "text_encoder": None}
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
    pictures: list[Image.Image] | None = None,
) -> Tensor:
    height, width = size
    klein = {"guidance_scale": scale, "negative_prompt_embeds": None if null is None else null.embeds}
    drawn = official(
        prompt_embeds=condition.embeds,
        image=pictures,
        latents=noise,
        height=height,
        width=width,
        num_inference_steps=steps,
        output_type="latent",
        **(klein if isinstance(official, diffusers.Flux2KleinPipeline) else {}),
    ).images
    if isinstance(official, diffusers.Flux2KleinPipeline):  # gives what its autoencoder decodes
        mean, std = statistics(official)
        return (official._patchify_latents(drawn) - mean) / std
    return drawn.transpose(1, 2).reshape(noise.shape)


def edit(
    official: Any, condition: Condition, null: Condition | None, noise: Tensor, steps: int, scale: float, pictures: list[Image.Image]
) -> Tensor:
    return draw(official, condition, null, noise, steps, scale, EDITED, pictures)


def describe(official: Any, captions: Sequence[str]) -> Condition:
    embeds, _ = official.encode_prompt(list(captions), max_sequence_length=ROOM)
    return Condition(embeds, ones(embeds))


def statistics(official: Any) -> tuple[Tensor, Tensor]:
    bn = official.vae.bn
    return bn.running_mean.view(1, -1, 1, 1), (bn.running_var.view(1, -1, 1, 1) + official.vae.config.batch_norm_eps).sqrt()


def encode(official: Any, pixels: Tensor) -> Tensor:
    return official._encode_vae_image(pixels, generator=None)


def decode(official: Any, latents: Tensor) -> Tensor:
    mean, std = statistics(official)
    return official.vae.decode(official._unpatchify_latents(latents * std + mean)).sample


COMMON = {
    "load": flux2.load,
    "draw": draw,
    "describe": describe,
    "encode": encode,
    "decode": decode,
    "schedulers": {
        "dynamic": diffusers.FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        "static": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    },
    "latents": (16, 8, 8),
    "multiple": 8,
    "default_size": (512, 512),
    "several": True,
    "edit": edit,
    "load_options": {"max_sequence_length": ROOM},
}
KLEIN = {"guidance_embeds": False, "pipeline": diffusers.Flux2KleinPipeline, "reader": qwen}
FAMILIES = {
    # dev's official pipeline knows the distilled guidance alone
    "flux2": Family(make=make, pipeline=diffusers.Flux2Pipeline, open=open_dev, guidance=(1.0,), references=6, **COMMON),
    "flux2_klein": Family(make=partial(make, **KLEIN), pipeline=diffusers.Flux2KleinPipeline, references=4, **COMMON),
}
