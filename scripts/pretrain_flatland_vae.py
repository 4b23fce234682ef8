"""Pretrain Flatland's autoencoder: AutoencoderDC, 64 x 64 pixels -> 8 x 8 latents.

    python scripts/pretrain_flatland_vae.py --work ../flatland/vae --out adapters/flatland/hand/vae

Several processes: torchrun --nproc-per-node N (with ACCELERATE_USE_CPU=true on CPU). Run the same command again to resume.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from PIL import Image
from torch import Tensor, nn

from metabridge.eval.detect.flatland import correct
from metabridge.scripts.pretraining import Settings, pretrain, settings_from_command_line
from metabridge.training.flatland.captions import TAGS, captioned
from metabridge.training.flatland.world import draw

CHANNELS = 8


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """-> [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def make_batch(rows: list[int]) -> Tensor:
    return to_pixels([draw(captioned(random.Random(r), allow_held_out=True).scene) for r in rows])


class Reconstruction(nn.Module):
    """Pixels from noised latents: the noise makes neighbouring latents decode alike, which a diffusion model needs."""

    def __init__(self, vae: AutoencoderDC, noise: float = 0.15, l2: float = 1e-3) -> None:
        super().__init__()
        self.vae, self.noise, self.l2 = vae, noise, l2

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.vae.device)
        latents = self.vae.encode(pixels).latent
        decoded = self.vae.decode(latents + self.noise * torch.randn_like(latents)).sample
        # unit variance, without which the encoder would drown the noise
        spread = (latents.float().pow(2).mean() - 1).clamp(min=0)
        return F.l1_loss(decoded, pixels) + 4 * F.mse_loss(decoded, pixels) + self.l2 * spread * 50


@torch.no_grad()
def kept(vae: AutoencoderDC, count: int = 100) -> dict[str, float]:
    """Share of unseen scenes per tag that the checker still reads right after encode and decode."""
    scores = {}
    for tag in TAGS:
        rows = [captioned(random.Random(10**9 + i), tag, "eval", allow_held_out=True) for i in range(count)]
        pixels = to_pixels([draw(r.scene) for r in rows]).to(vae.device)
        images = to_images(vae.decode(vae.encode(pixels).latent).sample)
        scores[tag] = sum(correct(image, row.want)[0] for image, row in zip(images, rows, strict=True)) / count
    return scores


def main() -> None:
    work, out, settings, _ = settings_from_command_line(
        __doc__, Settings(steps=3000, batch_size=32, lr=1e-3, ema=0.995, checkpoint_every=500)
    )
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
    print(f"{sum(p.numel() for p in vae.parameters()):,} parameters")
    model = pretrain(Reconstruction(vae), make_batch, settings, work, lambda m: kept(m.vae), evaluate_every=500)
    with torch.no_grad():
        latents = torch.cat(
            [model.vae.encode(make_batch(list(range(k, k + 100))).to(model.vae.device)).latent for k in range(0, 1000, 100)]
        )
    model.vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
    model.vae.to(torch.bfloat16).save_pretrained(out)
    print(f"latents: mean {latents.mean():.3f}, std {latents.std():.3f}; saved {out}")


if __name__ == "__main__":
    main()
