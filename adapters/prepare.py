"""Options that every hand with a denoiser of diffusers has, put into effect once it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metabridge.adapters.loras import wanted
from metabridge.adapters.pretrained import PretrainedHand
from metabridge.bridge.errors import UserError
from metabridge.bridge.interfaces import Hand


def prepare_hand(
    hand: Hand,
    loras: Sequence[Mapping[str, Any]] = (),
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002
    vae_tiling: bool = False,
) -> None:
    """`loras`: LoRA files to draw with; `gradient_checkpointing`: memory for time in training; `compile`: torch.compile the denoiser.

    `vae_tiling`: large pictures pass the autoencoder in tiles that overlap: less memory, and nearly the same picture.
    """
    if not isinstance(hand, PretrainedHand):
        raise UserError(
            "hand.loras, hand.gradient_checkpointing, hand.compile, hand.vae_tiling: for hands with a denoiser of diffusers; leave them out"
        )
    for name, value in (("gradient_checkpointing", gradient_checkpointing), ("compile", compile), ("vae_tiling", vae_tiling)):
        if not isinstance(value, bool):
            raise UserError(f"hand.{name}: {value!r} given; it is true or false")
    if files := wanted(loras):
        hand.wear(files)
    if gradient_checkpointing:
        hand.denoiser.enable_gradient_checkpointing()
    if compile:
        hand.denoiser.compile()
    if vae_tiling:
        hand.vae.enable_tiling()
