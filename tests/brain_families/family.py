"""What the contract test knows of a family of brains, and what their tiny checkpoints are written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

from metabridge.adapters.processors import image_only


@dataclass(frozen=True)
class Family:
    make: Callable[[Path], Path]  # a tiny checkpoint with random weights in the hub's layout, written into the folder it returns
    status: str = "exact"  # exact | full-forward | refused
    reason: str = ""  # for `metabridge ls brains`: what was proven, or why not
    pictures: bool = True  # False = reads text only
    narrow: bool = False  # transformers computes a part of it in float32 whatever the dtype
    extends: bool = True  # a turn read onto a Memory equals a fresh read; False = such a brain re-reads


def write(folder: Path, model_class: Any, config: Any, processor: Any) -> Path:
    """The same weights each time, and every file that a hub repository has."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tiny.spread(model_class(config))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def processor(processor_class: Any, pictures: Any, words: Any, chat_template: str, **options: Any) -> Any:
    return image_only(processor_class)(image_processor=pictures, tokenizer=words, chat_template=chat_template, **options)


def text(words: transformers.PreTrainedTokenizerFast, **options: Any) -> dict[str, Any]:
    """Configuration of the decoder."""
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id}
    return tiny.TEXT | {"vocab_size": len(words)} | ids | options


def chat_template(picture: str, start: str = "<|im_start|>", end: str = "<|im_end|>") -> str:
    """tiny.CHAT_TEMPLATE in another family's tokens."""
    changed = {"<|im_start|>": start, "<|im_end|>": end, "<|vision_start|><|image_pad|><|vision_end|>": picture}
    template = tiny.CHAT_TEMPLATE
    for ours, theirs in changed.items():
        template = template.replace(ours, theirs)
    return template
