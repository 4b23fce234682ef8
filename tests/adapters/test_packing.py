"""Packing is its own inverse, and is the one of the official pipelines."""

from __future__ import annotations

import torch
from diffusers import FluxPipeline

from metabridge.adapters.packing import image_ids, pack, unpack


def test_pack_and_back() -> None:
    latents = torch.randn(2, 3, 4, 6)
    assert pack(latents).shape == (2, 6, 12)
    assert torch.equal(unpack(pack(latents), 4, 6), latents)


def test_a_token_is_a_tile_channel_by_channel() -> None:
    latents = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)
    assert pack(latents)[0, 1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23]


def test_as_the_official_pipeline() -> None:
    latents = torch.randn(2, 3, 4, 6)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 3, 4, 6))
    official = FluxPipeline._prepare_latent_image_ids(2, 2, 3, torch.device("cpu"), torch.float32)
    assert torch.equal(image_ids(4, 6, torch.device("cpu")), official)
