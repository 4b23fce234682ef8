"""A vision tower and a projector before a causal LM: LLaVA, LLaVA-OneVision, InternVL, Mistral 3."""

from __future__ import annotations

from pathlib import Path

import tiny
import transformers

from brain_families.family import Family, chat_template, processor, text, write
from metabridge.adapters.processors import processor_class_of

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CHAT_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def words_with(*tokens: str, **named: str) -> transformers.PreTrainedTokenizerFast:
    extra = {"extra_special_tokens": named} if named else {}
    return tiny.tokenizer([*CHAT_TOKENS, *tokens], "left", eos_token="<|im_end|>", pad_token="<|endoftext|>", **extra)


def make_llava(folder: Path) -> Path:
    words = words_with("<image>")
    config = transformers.LlavaConfig(
        text_config=text(words, model_type="llama"),
        vision_config=TOWER | {"model_type": "clip_vision_model", "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    pictures = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    whole = processor(transformers.LlavaProcessor, pictures, words, chat_template("<image>\n"), **options)
    return write(folder, transformers.LlavaForConditionalGeneration, config, whole)


def make_llava_onevision(folder: Path) -> Path:
    words = words_with("<image>", "<video>")
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    siglip = {"model_type": "siglip_vision_model", "image_size": 16, "patch_size": 8, "vision_use_head": False}
    config = transformers.LlavaOnevisionConfig(
        text_config=text(words, model_type="qwen2"),
        vision_config=TOWER | siglip,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    pictures = transformers.LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=pinpoints)
    options = {"num_image_tokens": 4, "vision_feature_select_strategy": "full"}
    whole = processor(transformers.LlavaOnevisionProcessor, pictures, words, chat_template("<image>\n"), **options)
    return write(folder, transformers.LlavaOnevisionForConditionalGeneration, config, whole)


def make_internvl(folder: Path) -> Path:
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    words = words_with(*named.values(), **named)
    config = transformers.InternVLConfig(
        text_config=text(words, model_type="qwen2"),
        vision_config=TOWER | {"image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    size = {"height": 32, "width": 32}
    pictures = transformers.GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=3)
    whole = processor(transformers.InternVLProcessor, pictures, words, chat_template("<IMG_CONTEXT>\n"), image_seq_length=4)
    return write(folder, transformers.InternVLForConditionalGeneration, config, whole)


def make_mistral3(folder: Path) -> Path:
    tokens = ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    words = tiny.tokenizer(tokens, "left", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    pixtral = {"model_type": "pixtral", "image_size": 128, "patch_size": 8, "head_dim": 16}
    config = transformers.Mistral3Config(
        text_config=text(words, model_type="mistral", head_dim=8, sliding_window=None),
        vision_config=TOWER | pixtral,
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    pictures = transformers.PixtralImageProcessorPil(size={"longest_edge": 128}, patch_size={"height": 16, "width": 16})
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% endif %}"
        "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}[IMG]{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
        "{% if m['role'] == 'user' %}[/INST]{% else %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    whole = processor(processor_class_of(config), pictures, words, template, patch_size=8, spatial_merge_size=2)
    return write(folder, transformers.Mistral3ForConditionalGeneration, config, whole)


FAMILIES = {
    "llava": Family(make_llava, reason="CLIP tower; every picture cut to one square"),
    "llava_onevision": Family(
        make_llava_onevision, reason="a picture beside others is patched more coarsely; a later turn with one is refused", extends=False
    ),
    "internvl": Family(make_internvl, reason="a picture in up to as many tiles as the checkpoint says"),
    "mistral3": Family(make_mistral3, reason="Pixtral tower"),
}
