"""Qwen-VL and its kin: pictures of any size, M-RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import transformers

from brain_families.family import Family, processor, text, write

PATCH = tiny.PATCH
SIZE = {"shortest_edge": 4 * PATCH**2, "longest_edge": 64 * PATCH**2}
VISION = {"depth": 2, "num_heads": 2, "patch_size": PATCH}
GLM_TOKENS = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>"]
GLM_TOKENS += ["<|image|>", "<|video|>", "<|begin_of_video|>", "<|end_of_video|>"]


def rope(**options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]} | options}


def make_qwen(folder: Path, model_class: Any, processor_class: Any, decoder: dict[str, Any], vision: dict[str, Any]) -> Path:
    words = tiny.qwen_tokenizer()
    ids = words.convert_tokens_to_ids
    config = model_class.config_class(
        text_config=text(words, **decoder),
        vision_config=VISION | vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    pictures = transformers.Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=SIZE)
    return write(folder, model_class, config, processor(processor_class, pictures, words, tiny.CHAT_TEMPLATE))


def make_qwen2_vl(folder: Path) -> Path:
    vision = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return make_qwen(folder, transformers.Qwen2VLForConditionalGeneration, transformers.Qwen2VLProcessor, rope(), vision)


QWEN3_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
QWEN3_TEXT = {"head_dim": 8} | rope(mrope_interleaved=True)


def make_qwen3_vl(folder: Path) -> Path:
    return make_qwen(folder, transformers.Qwen3VLForConditionalGeneration, transformers.Qwen3VLProcessor, QWEN3_TEXT, QWEN3_VISION)


def make_qwen3_vl_moe(folder: Path) -> Path:
    decoder = QWEN3_TEXT | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    return make_qwen(folder, transformers.Qwen3VLMoeForConditionalGeneration, transformers.Qwen3VLProcessor, decoder, QWEN3_VISION)


def make_glm4v(folder: Path) -> Path:
    words = tiny.tokenizer(GLM_TOKENS, "left", eos_token="<|user|>", pad_token="<|endoftext|>")
    ids = words.convert_tokens_to_ids
    config = transformers.Glm4vConfig(
        text_config=text(words, num_attention_heads=2, num_key_value_heads=1, **rope(partial_rotary_factor=0.5)),
        vision_config=VISION | {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "image_size": 8 * PATCH},
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    size = {name: 2 * pixels for name, pixels in SIZE.items()}  # counted over both frames of a patch
    pictures = transformers.Glm4vImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=size)
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>\n"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return write(
        folder, transformers.Glm4vForConditionalGeneration, config, processor(transformers.Glm4vProcessor, pictures, words, template)
    )


FAMILIES = {
    "qwen2": Family(tiny.make_causal_lm, reason="text only", pictures=False),
    "qwen2_vl": Family(make_qwen2_vl, reason="M-RoPE"),
    "qwen2_5_vl": Family(tiny.make_brain, reason="M-RoPE, windowed vision"),
    "qwen3_vl": Family(make_qwen3_vl, reason="interleaved M-RoPE, deepstack"),
    "qwen3_vl_moe": Family(make_qwen3_vl_moe, reason="interleaved M-RoPE, deepstack, mixture of experts"),
    "glm4v": Family(make_glm4v, reason="M-RoPE over half of each head"),
}
