"""Idefics 3 and SmolVLM: a picture in tiles of one size, beside the whole of it."""

from __future__ import annotations

from pathlib import Path

import tiny
import transformers

from brain_families.family import Family, chat_template, processor, text, write

TOKENS = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", "<video>"]
TOKENS += [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]


def make(folder: Path, name: str) -> Path:
    words = tiny.tokenizer(TOKENS, "left", eos_token="<end_of_utterance>", pad_token="<|endoftext|>")
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    config = model_class.config_class(
        text_config=text(words, model_type="llama"),
        vision_config=tower,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=words.pad_token_id,
    )
    pictures = getattr(transformers, f"{name}ImageProcessorPil")(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    template = chat_template("<image>", end="<end_of_utterance>")
    whole = processor(getattr(transformers, f"{name}Processor"), pictures, words, template, image_seq_len=4)
    return write(folder, model_class, config, whole)


FAMILIES = {
    "idefics3": Family(lambda folder: make(folder, "Idefics3"), reason="a picture in tiles beside the whole of it"),
    "smolvlm": Family(lambda folder: make(folder, "SmolVLM"), reason="a picture in tiles beside the whole of it; no videos"),
}
