"""Scoring networks at a size for tests: CLIP and DINO of the real classes, and Inception under weights that are the same on any machine."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers
from torch import Tensor


def clip(folder: Path) -> Path:
    letters = {letter: k for k, letter in enumerate(["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, "-"])}
    vocab = letters | {f"{letter}</w>": len(letters) + k for k, letter in enumerate([*string.ascii_lowercase, "-"])}
    transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77).save_pretrained(folder)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**tower, "vocab_size": len(vocab), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def dino(folder: Path) -> Path:
    config = transformers.ViTConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=8
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)  # under the names of the hub's files
    return folder


def noise(count: int, salt: int) -> Tensor:
    """[count] whole numbers in 0..65535, by an integer hash."""
    x = (torch.arange(count, dtype=torch.int64) + salt * 10**7) % 2**32
    for _ in range(3):
        x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
    return x >> 16


def fill(state: dict[str, Tensor]) -> None:
    """Weights that keep activations alive, in the place of what is there."""
    for salt, (name, tensor) in enumerate(sorted(state.items())):
        if not tensor.is_floating_point():
            continue
        values = (noise(tensor.numel(), salt).double() / 65536 - 0.5).reshape(tensor.shape)  # -0.5 .. 0.5
        if tensor.ndim > 1:
            values *= (24 / tensor[0].numel()) ** 0.5  # variance 2 / inputs
        elif name.endswith(("bn.weight", "running_var")):
            values = 1 + values / 2
        else:
            values = values / 50
        tensor.copy_(values)


def inception(path: Path) -> Path:
    """A file as the real one, with the classes' layer that FID does not use."""
    from metabridge.eval.features.inception_net import Inception

    state = Inception().state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    fill(state)
    torch.save(state, path)
    return path
