"""Latents as tokens of 2x2: the layout that FLUX.1 and its kin see a picture in, and the ids of the places they stand at."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h/2 * w/2, 4C], row by row; in a token the channel comes first, then its two rows of two."""
    batch, channels, height, width = latents.shape
    tiles = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """What pack made of latents h x w -> [B, C, h, w]."""
    batch, _, depth = tokens.shape
    tiles = tokens.reshape(batch, height // 2, width // 2, depth // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(batch, depth // 4, height, width)


def image_ids(height: int, width: int, device: torch.device, picture: int = 0) -> Tensor:
    """Of latents h x w: [h/2 * w/2, 3] with (picture, row, column) of each token, as FLUX.1 and Chroma want them."""
    rows, columns = torch.meshgrid(torch.arange(height // 2, device=device), torch.arange(width // 2, device=device), indexing="ij")
    return torch.stack([torch.full_like(rows, picture), rows, columns], dim=-1).reshape(-1, 3).float()
