"""Tensors in a folder as the hub has them: one file of safetensors, or shards with an index where they are large."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from metabridge.bridge.errors import UserError

NAME, INDEX = "bridge.safetensors", "bridge.safetensors.index.json"
SHARD = 5_000_000_000  # bytes of a file


def save_weights(tensors: Mapping[str, Tensor], folder: Path) -> None:
    files = shards(tensors, SHARD)
    for file, part in files.items():
        save_file(part, folder / file)
    if len(files) > 1:
        places = {name: file for file, part in files.items() for name in part}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def load_weights(folder: Path) -> dict[str, Tensor]:
    files = [NAME]
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise UserError(f"{folder}: no {missing[0]} here; give the folder that holds bridge.json and {NAME}")
    return {name: tensor for file in files for name, tensor in load_file(folder / file).items()}


def shards(tensors: Mapping[str, Tensor], most: int) -> dict[str, dict[str, Tensor]]:
    """File -> its tensors, in the order given: one file, or several of `most` bytes (or of one tensor that is larger)."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    if len(parts) == 1:
        return {NAME: parts[0]}
    return {f"bridge-{k:05d}-of-{len(parts):05d}.safetensors": part for k, part in enumerate(parts, start=1)}
