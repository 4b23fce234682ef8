"""Pretrain Flatland's autoencoder: AutoencoderDC, 64 x 64 pixels -> 8 x 8 latents.

    python scripts/pretrain_flatland_vae.py --work ../flatland/vae --out adapters/flatland/hand/vae

Several processes: torchrun --nproc-per-node N. Run the same command again to resume.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC, AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from metabridge.adapters.pretrained import latents_of
from metabridge.eval.detect.flatland import correct
from metabridge.scripts.pretraining import Row, Settings, finish, pixels_of, pretrain, settings_from_command_line
from metabridge.training.flatland.captions import TAGS, captioned
from metabridge.training.flatland.world import draw

CHANNELS = 8
SIZE = (64, 64)


def pictures(seeds: Iterable[int]) -> Tensor:
    """-> [B, 3, H, W] in [-1, 1], a scene a seed."""
    return pixels_of([draw(captioned(random.Random(seed), allow_held_out=True).scene) for seed in seeds])


class Reconstruction(nn.Module):
    """Pixels from noised latents: the noise makes neighbouring latents decode alike, which a diffusion model needs."""

    def __init__(self, vae: AutoencoderDC, noise: float = 0.15, spread: float = 0.05) -> None:
        super().__init__()
        self.vae, self.noise, self.spread = vae, noise, spread

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.vae.device)
        latents = self.vae.encode(pixels).latent
        decoded = self.vae.decode(latents + self.noise * torch.randn_like(latents)).sample
        # unit variance, without which the encoder would drown the noise
        excess: Tensor = (latents.float().pow(2).mean() - 1).clamp(min=0)
        return F.l1_loss(decoded, pixels) + 4 * F.mse_loss(decoded, pixels) + self.spread * excess


def train_vae(vae: AutoencoderDC | AutoencoderKL, model: nn.Module, work: Path, out: Path, settings: Settings, evaluate_every: int) -> None:
    """Train `vae` through `model`, whose forward(pixels) is the loss, and save it."""
    print(f"{sum(p.numel() for p in vae.parameters()):,} parameters")

    def batch(rows: Sequence[Row]) -> Tensor:
        return pictures(row.seed for row in rows)

    scores = pretrain(model, batch, settings, work, lambda _: kept(vae), evaluate_every)
    save_scaled(vae, work, out, settings, scores)


@torch.no_grad()
def save_scaled(vae: AutoencoderDC | AutoencoderKL, work: Path, out: Path, settings: Settings, scores: dict[str, float]) -> None:
    """Save it with the factor that brings its latents to unit variance."""
    latents = torch.cat([latents_of(vae, pictures(range(k, k + 100)).to(vae.device)) for k in range(0, 1000, 100)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    print(f"latents: mean {latents.mean():.3f}, std {latents.std():.3f}")
    finish(work, out, settings, scores, vae.to(torch.bfloat16).save_pretrained)


@torch.no_grad()
def kept(vae: AutoencoderDC | AutoencoderKL, count: int = 100) -> dict[str, float]:
    """Share of unseen scenes per tag that the checker still reads right after encode and decode."""
    scores = {}
    for tag in TAGS:
        rows = [captioned(random.Random(10**9 + i), tag, "eval", allow_held_out=True) for i in range(count)]
        pixels = pixels_of([draw(r.scene) for r in rows]).to(vae.device)
        images = VaeImageProcessor().postprocess(vae.decode(latents_of(vae, pixels)).sample, "pil")
        scores[tag] = sum(correct(image, row.want)[0] for image, row in zip(images, rows, strict=True)) / count
    return scores


def main() -> None:
    default = Settings(steps=3000, batch_size=32, lr=1e-3, ema=0.995, checkpoint_every=500)
    work, out, settings = settings_from_command_line(__doc__, default)
    torch.manual_seed(settings.seed)
    layers, widths = (0, 1, 1, 1), (32, 48, 96, 128)
    vae = AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
    )
    train_vae(vae, Reconstruction(vae), work, out, settings, evaluate_every=500)


if __name__ == "__main__":
    main()
