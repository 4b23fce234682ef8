"""What the contract test knows of a family of hands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.interfaces import Condition

HEIGHT = WIDTH = 64  # pixels that are drawn
EDITED = (64, 96)  # of a source picture and what is drawn from it: a size at which the official pipelines leave both as they are
LENGTH = 16  # tokens of a native prompt

# (official pipeline, condition, null condition or None, noise [B, C, h, w], steps, guidance scale) -> latents as the hand's, [B, C, h, w]
Draw = Callable[[Any, Condition, Condition | None, Tensor, int, float], Tensor]
# (official pipeline, captions) -> what its own encode_prompt makes of them; of [""] what stands for no prompt
Describe = Callable[[Any, Sequence[str]], Condition]
# as Draw, of EDITED pixels and with source pictures of as many; the pipeline is the one for editing
Edit = Callable[[Any, Condition, Condition | None, Tensor, int, float, list[Image.Image]], Tensor]


@dataclass(frozen=True)
class Family:
    make: Callable[..., Path]  # (folder, seed=0, text_encoder=True): a tiny pipeline with random weights in the hub's layout
    load: Callable[..., PretrainedHand]
    pipeline: Any  # the official class
    draw: Draw
    describe: Describe
    schedulers: dict[str, Any]  # what its checkpoints on the hub come with
    guidance: tuple[float, ...] = (1.0, 4.5)
    latents: tuple[int, int, int] = (4, 16, 16)  # of 64 x 64 pixels
    multiple: int = 4  # of pixels, that height and width must be
    default_size: tuple[int, int] = (64, 64)
    encode: Callable[[Any, Tensor], Tensor] = lambda official, pixels: scaled(official.vae, pixels)  # pixels -> latents as the hand's
    decode: Callable[[Any, Tensor], Tensor] = lambda official, latents: unscaled(official.vae, latents)  # and back
    load_options: dict[str, Any] = field(default_factory=dict)
    open: Callable[[Path], Any] | None = None  # the official pipeline of a folder, where its own from_pretrained cannot
    references: int = 0  # source pictures that it takes by default
    several: bool = False  # whether it takes more than one
    edit: Edit | None = None  # of a family that takes source pictures as tokens
    editor: Callable[[Path], Any] | None = None  # the official pipeline for editing, where it is not that for text to image


def ones(embeds: Tensor) -> Tensor:
    """The mask of a condition that is attended to throughout."""
    return torch.ones(embeds.shape[:2], dtype=torch.long)


def scaled(vae: Any, pixels: Tensor) -> Tensor:
    """Latents of a KL or DC autoencoder, (z - shift) * scale."""
    encoded = vae.encode(pixels)
    latents = encoded.latent if hasattr(encoded, "latent") else encoded.latent_dist.mean
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def unscaled(vae: Any, latents: Tensor) -> Tensor:
    return vae.decode(latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)).sample


# what the flow checkpoints on the hub whose shift grows with the picture come with
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
