"""Parts that tiny hands share: a KL autoencoder, and the text encoders of the real classes with their tokenizers."""

from __future__ import annotations

import string
from typing import Any

import diffusers
import transformers

LETTERS = string.ascii_lowercase


def kl_vae(channels: int = 4, **options: Any) -> diffusers.AutoencoderKL:
    """Four pixels to a latent."""
    return diffusers.AutoencoderKL(
        latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        **{"scaling_factor": 0.5} | options,
    )


def clip_tokenizer(length: int) -> transformers.CLIPTokenizer:
    letters = {letter: k for k, letter in enumerate(["<|startoftext|>", "<|endoftext|>", *LETTERS])}
    vocab = letters | {f"{letter}</w>": len(letters) + k for k, letter in enumerate(LETTERS)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def clip_config(width: int, length: int, **options: Any) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **options,
    )


def t5_tokenizer() -> transformers.T5Tokenizer:
    """A token a letter."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return transformers.T5Tokenizer(vocab=vocab, extra_ids=0)


def t5_options(width: int) -> dict[str, int]:
    return {"vocab_size": 4 + len(LETTERS), "d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 2, "num_heads": 2}


def t5_config(width: int) -> transformers.T5Config:
    return transformers.T5Config(**t5_options(width))
